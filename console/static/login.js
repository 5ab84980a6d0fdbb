// The login form: sends JSON, so that no other site's form can.
const form = document.getElementById("login");
const said = document.getElementById("said");
form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const button = form.querySelector("button");
  button.disabled = true;
  said.textContent = "";
  try {
    const answer = await fetch("/login", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ name: form.elements.name.value, password: form.elements.password.value }),
    });
    if (answer.ok) {
      window.location.assign(form.dataset.next);
      return;
    }
    said.textContent = (await answer.json()).error;
  } catch {
    said.textContent = "The console does not answer. Is it still running?";
  }
  button.disabled = false;
});
