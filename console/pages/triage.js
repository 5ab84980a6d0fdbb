// The list of anomalies: filters, rows, keys. It decides nothing: every action goes to the server, which checks the user's role.
// Log text comes through {{ }} only, which Vue writes as text.
const SPANS = ["1 h", "1 day", "ever"];
const TONES = { normal: "ok", suppressed: "quiet", muted: "quiet", anomalous: "bad", open: "" };

export default {
  template: `
  <div class="triage">
    <div class="bar" role="search">
      <input ref="search" class="field grow" type="search" v-model="text" @input="typed" placeholder="Search ( / )" aria-label="Search" maxlength="500">
      <select v-for="choice in choices.slice(0, wide ? 6 : 3)" :key="choice.name" class="field" :class="{set: filter[choice.name]}" :value="filter[choice.name]" @change="pick(choice.name, $event.target.value)" :aria-label="choice.title">
        <option value="">{{ choice.title }}</option>
        <option v-for="option in choice.options" :key="option[0]" :value="option[0]">{{ option[1] }}</option>
      </select>
      <button class="btn small" :class="{on: wide}" @click="wide = !wide" title="Detector, mode, status">More</button>
      <button v-if="isFiltered" class="btn small" @click="clear" title="Show everything">Clear</button>
    </div>
    <div class="bar thin">
      <div class="seg" role="group" aria-label="Group">
        <button :class="{on: !grouped}" @click="group(false)">Anomalies</button>
        <button :class="{on: grouped}" @click="group(true)">Incidents</button>
      </div>
      <span class="dim count">{{ total.toLocaleString("en") }} {{ grouped ? (total === 1 ? "incident" : "incidents") : (total === 1 ? "anomaly" : "anomalies") }}</span>
      <span v-if="filter.fingerprint" class="chip">one incident <button class="x" @click="pick('fingerprint', '')" aria-label="All incidents">×</button></span>
      <span v-if="filter.incident" class="chip">one incident <button class="x" @click="pick('incident', '')" aria-label="All incidents">×</button></span>
      <span v-if="filter.session" class="chip">one request <button class="x" @click="pick('session', '')" aria-label="All requests">×</button></span>
      <span class="grow"></span>
      <button v-if="fresh" class="btn primary small fresh" @click="$emit('fresh')" title="Show them ( . )">{{ fresh.toLocaleString("en") }} new</button>
      <span v-else-if="paused" class="dim">paused</span>
      <button class="btn small" :class="{on: follow}" @click="$emit('follow', !follow)" title="Show new ones by themselves, while the list is at its top and the mouse is elsewhere">Follow</button>
      <button class="btn small" :class="{on: paused}" @click="$emit('pause', !paused)" title="Hold the list still ( p )">{{ paused ? "Resume" : "Pause" }}</button>
      <a class="btn small" :href="exportUrl" download title="What the filters show, as a CSV file">CSV</a>
      <button class="btn small" @click="help = !help" title="Keys ( ? )" aria-label="Keyboard shortcuts">?</button>
    </div>
    <div ref="list" class="list" tabindex="0" role="listbox" aria-label="Anomalies" @scroll.passive="scrolled" @mouseenter="hover(true)" @mouseleave="hover(false)">
      <div v-if="loading && !rows.length" class="empty"><div class="spinner"></div><p>Reading the topics …</p></div>
      <div v-else-if="!rows.length" class="empty">
        <h2>{{ isFiltered ? "Nothing matches these filters" : "No anomalies yet" }}</h2>
        <p v-if="isFiltered"><button class="btn" @click="clear">Show everything</button></p>
        <p v-else class="dim">They appear here as the job tells of them. A new service learns first; <a href="/services">Services</a> says what each one waits for.</p>
      </div>
      <template v-if="grouped">
        <div v-for="row in rows" :key="row.id" :data-id="row.id" class="arow" :class="[{selected: row.id === selected}, 'tone-' + row.tone]" role="option" :aria-selected="row.id === selected" @click="choose(row.id)">
          <span class="time" :title="row.date">{{ row.time }}</span>
          <span class="what"><span class="line1"><b class="times">{{ row.count.toLocaleString("en") }}×</b><span class="service">{{ row.service }}</span>
            <span class="level" :class="'lv-' + row.level">{{ row.level }}</span><span v-if="row.label !== 'open'" class="chip" :class="tone(row.label)">{{ row.label }}</span>
            <span v-if="row.state" class="chip" :class="row.stateTone">{{ row.state }}</span><span v-if="row.severity" class="chip" :class="row.severityTone">{{ row.severity }}</span><span v-if="row.mode === 'shadow'" class="chip quiet">shadow</span>
            <span class="dim">since {{ row.since }}</span></span>
            <span class="msg">{{ row.message }}</span></span>
          <svg class="spark" viewBox="0 0 96 24" preserveAspectRatio="none" aria-hidden="true"><rect v-for="(n, i) in row.bars" :key="i" :x="i * 4" :y="24 - n" width="3" :height="n"></rect></svg>
        </div>
      </template>
      <template v-else>
        <div v-for="row in rows" :key="row.id" :data-id="row.id" class="arow" :class="[{selected: row.id === selected, done: row.label !== 'open'}, 'tone-' + row.tone]" role="option" :aria-selected="row.id === selected" @click="choose(row.id)">
          <span class="time" :title="row.date">{{ row.time }}</span>
          <span class="what"><span class="line1"><span class="service">{{ row.service }}</span>
            <span class="level" :class="'lv-' + row.level">{{ row.level }}</span><span v-if="row.mode === 'shadow'" class="chip quiet">shadow</span>
            <span v-if="row.status !== 'new'" class="chip">{{ row.status }}</span><span v-if="row.label !== 'open'" class="chip" :class="tone(row.label)">{{ row.label }}</span><span v-if="row.by" class="dim">{{ row.by }}</span></span>
            <span class="msg">{{ row.message }}</span></span>
          <span class="score" :title="row.detector + ', score ' + row.score.toFixed(2) + '; told from 0.50 on'"><span class="meter"><i :style="{width: Math.round(row.score * 100) + '%'}"></i></span><b>{{ row.score.toFixed(2) }}</b></span>
        </div>
      </template>
      <div v-if="more !== null && rows.length" class="more dim">{{ loadingMore ? "Loading …" : "" }}</div>
      <div v-else-if="rows.length > 20" class="more dim">That is all of them.</div>
    </div>
    <div class="toasts" aria-live="polite">
      <div v-for="toast in toasts" :key="toast.id" class="toast" :class="'st-' + toast.state" :data-command="toast.id">
        <span><b>{{ toast.text }}</b> <span class="dim">{{ toast.said }}</span></span>
        <button v-if="toast.canUndo" class="btn small" @click="$emit('undo', toast.id)">Undo</button>
        <button class="x" @click="dismiss(toast.id)" aria-label="Dismiss">×</button>
      </div>
    </div>
    <div v-if="choosing" class="chooser" role="dialog" aria-label="Suppress for how long">Suppress for
      <button v-for="(span, i) in spans" :key="span" class="btn small" @click="suppress(i)"><kbd>{{ i + 1 }}</kbd> {{ span === "ever" ? "ever" : span }}</button>
      <button class="btn small" @click="choosing = false"><kbd>esc</kbd> cancel</button></div>
    <div v-if="help" class="help" role="dialog" aria-label="Keyboard shortcuts" @click="help = false"><div class="card" @click.stop>
      <h2>Keys</h2><dl><template v-for="key in keys" :key="key[0]"><dt><kbd>{{ key[0] }}</kbd></dt><dd>{{ key[1] }}</dd></template></dl>
      <button class="btn" @click="help = false">Close</button></div></div>
  </div>`,
  props: { initial: Object },
  data() {
    return {
      ...this.initial, // rows, more, total, grouped, filter, options, fresh, follow, paused, loading, exportUrl, selected
      text: this.initial.filter.text,
      toasts: [],
      help: false,
      choosing: false,
      wide: Boolean(this.initial.filter.detector || this.initial.filter.mode || this.initial.filter.status),
      loadingMore: false,
      spans: SPANS,
      keys: [
        ["j", "next"], ["k", "previous"], ["enter", "open the details"], ["esc", "close"], ["n", "normal: a false alarm"],
        ["a", "anomalous: rightly told"], ["s", "suppress, for a time or for ever"], ["u", "undo the newest mark"],
        [".", "show the new ones"], ["p", "pause"], ["/", "search"], ["?", "this list"],
      ],
    };
  },
  computed: {
    choices() {
      const o = this.options;
      const same = (list) => list.map((name) => [name, name]);
      return [
        { name: "service", title: "All services", options: same(o.services) },
        { name: "label", title: "All labels", options: same(["open", "normal", "suppressed", "anomalous", "muted"]) },
        { name: "hours", title: "Any time", options: [["0.25", "last 15 min"], ["1", "last hour"], ["8", "last 8 h"], ["24", "last day"], ["168", "last week"]] },
        { name: "detector", title: "All detectors", options: same(o.detectors) },
        { name: "mode", title: "Live and shadow", options: same(["live", "shadow"]) },
        { name: "status", title: "Any status", options: same(["new", "strengthened", "refuted", "withdrawn"]) },
      ];
    },
    isFiltered() {
      return Object.values(this.filter).some((value) => value);
    },
  },
  mounted() {
    window.addEventListener("keydown", this.pressed);
  },
  unmounted() {
    window.removeEventListener("keydown", this.pressed);
    clearTimeout(this.timer);
  },
  methods: {
    // ---- told by the server
    load(state, toTop) {
      Object.assign(this, state);
      this.loadingMore = false;
      if (toTop && this.$refs.list) this.$refs.list.scrollTop = 0;
    },
    append(rows, more) {
      this.rows = this.rows.concat(rows);
      this.more = more;
      this.loadingMore = false;
    },
    patch(rows) {
      const fresh = new Map(rows.map((row) => [row.id, row]));
      this.rows = this.rows.map((row) => fresh.get(row.id) || row);
    },
    state(found) {
      Object.assign(this, found);
    },
    toast(found) {
      const at = this.toasts.findIndex((toast) => toast.id === found.id);
      if (at >= 0) this.toasts.splice(at, 1, found);
      else this.toasts = [...this.toasts.slice(-3), found];
      if (found.state === "obeyed") setTimeout(() => this.dismiss(found.id), 8000);
    },
    // ---- done by people
    tone(label) {
      return TONES[label];
    },
    dismiss(id) {
      this.toasts = this.toasts.filter((toast) => toast.id !== id);
    },
    typed() {
      clearTimeout(this.timer);
      this.timer = setTimeout(() => this.pick("text", this.text), 200);
    },
    pick(name, value) {
      this.filter = { ...this.filter, [name]: value };
      this.$emit("filter", this.filter);
    },
    clear() {
      this.text = "";
      this.filter = Object.fromEntries(Object.keys(this.filter).map((name) => [name, ""]));
      this.$emit("filter", this.filter);
    },
    group(grouped) {
      this.$emit("group", grouped);
    },
    choose(id) {
      this.selected = id;
      this.$emit("open", id);
    },
    hover(isIn) {
      this.isIn = isIn;
      this.hold();
    },
    hold() {
      const list = this.$refs.list;
      const held = Boolean(this.isIn || (list && list.scrollTop > 4));
      if (held !== this.held) {
        this.held = held;
        this.$emit("hold", held);
      }
    },
    scrolled() {
      this.hold();
      const list = this.$refs.list;
      if (this.more !== null && !this.loadingMore && list.scrollTop + list.clientHeight > list.scrollHeight - 800) {
        this.loadingMore = true;
        this.$emit("more");
      }
    },
    move(by) {
      if (!this.rows.length) return;
      const at = this.rows.findIndex((row) => row.id === this.selected);
      const next = Math.min(this.rows.length - 1, Math.max(0, at < 0 ? 0 : at + by));
      this.choose(this.rows[next].id);
      this.$nextTick(() => {
        const shown = this.$refs.list.querySelector(".arow.selected");
        if (shown) shown.scrollIntoView({ block: "nearest" });
      });
    },
    act(label, span) {
      if (this.selected) this.$emit("act", { label, id: this.selected, span });
    },
    suppress(at) {
      this.choosing = false;
      this.act("suppressed", SPANS[at]);
    },
    pressed(event) {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      const target = event.target;
      const isTyping = target instanceof HTMLElement && (target.isContentEditable || /^(INPUT|TEXTAREA|SELECT)$/.test(target.tagName));
      if (event.key === "Escape") {
        if (isTyping) target.blur();
        else if (this.help || this.choosing) this.help = this.choosing = false;
        else {
          this.selected = "";
          this.$emit("open", "");
        }
        return;
      }
      if (isTyping) return;
      if (this.choosing && "123".includes(event.key)) {
        this.suppress(Number(event.key) - 1);
        return;
      }
      const keys = {
        j: () => this.move(1), k: () => this.move(-1), Enter: () => this.selected && this.choose(this.selected),
        n: () => this.act("normal"), a: () => this.act("anomalous"), s: () => (this.choosing = Boolean(this.selected)),
        u: () => this.selected && this.$emit("undo_of", this.selected), ".": () => this.$emit("fresh"), p: () => this.$emit("pause", !this.paused),
        "/": () => this.$refs.search.focus(), "?": () => (this.help = !this.help),
      };
      if (event.key === "Enter" && target instanceof HTMLElement && /^(A|BUTTON)$/.test(target.tagName)) return;
      if (keys[event.key]) {
        event.preventDefault();
        keys[event.key]();
      }
    },
  },
};
