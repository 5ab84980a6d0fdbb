"""The wordings that severity is learned from: what services write, sorted by what it means to the people who run them.

```
informational   nobody has to do anything
warning         the system copes, and may not for long
error           something that was asked for did not happen
critical        service or data is lost for many, or will be until somebody acts
```

A wording belongs as a whole to one of three parts, by a hash of its text: one to learn from, one to calibrate with, one to test on. So the test never
holds a sentence that was learned with other numbers in it.
"""

from __future__ import annotations

import random
import re
import zlib
from collections.abc import Iterator
from typing import Final, Literal

Part = Literal["learn", "calibrate", "test"]

INFORMATIONAL: Final = """
Server started on port {port}
Started {svc} in {n} seconds
Listening on {ip}:{port}
Application ready to accept connections
Shutting down gracefully
Stopped {svc}
Connection from {ip} accepted
Connection closed by client
Opened session for user {user}
User {user} logged in
User {user} logged out
Password changed for user {user}
Received request {id} from {ip}
GET {url} 200 {n} ms
POST {url} 201 in {n} ms
Request {id} completed in {n} ms
Handled {n} requests
Loaded configuration from {file}
Configuration reloaded
Using default settings
Cache warmed with {n} entries
Cache hit for key {id}
Refreshed cache {svc}
Created table {table}
Migration {n} applied to {table}
Schema is up to date
Query on {table} returned {n} rows
Inserted {n} rows into {table}
Transaction {id} committed
Checkpoint {n} completed
Checkpoint started
Snapshot {id} written to {file}
Backup of {table} finished, {n} bytes
Restored {n} entries from {file}
Index {table} rebuilt
Vacuum of {table} done
Order {id} placed by {user}
Order {id} shipped
Payment {id} captured
Captured {n} EUR of payment {id}
Invoice {id} created for customer {user}
Refund {id} approved
Cart {id} opened for user {user}
Added item {n} to cart {id}
Mail sent to {user}
Notification {id} delivered
Message {id} published to {svc}
Consumed {n} messages from topic {svc}
Joined group {svc} as member {id}
Partition {n} assigned to {host}
Rebalance finished
Leader elected: {host}
Follower {host} is in sync
Node {host} joined the cluster
Heartbeat received from {host}
Health check passed
Service {svc} registered
Service {svc} is healthy
Service {svc} is up
Pod {id} scheduled on {host}
Container {id} created
Image pulled in {n} ms
Volume {id} mounted at {file}
Deployment {svc} rolled out
Scaled {svc} to {n} replicas
Job {id} started
Job {id} finished successfully
Task {id} is running
Task {n} of {n} done
Worker {n} spawned
Worker {n} exited with status 0
Thread pool initialised with {n} threads
Scheduler woke up, nothing to do
Timer {id} fired
Cleaned up {n} temporary files
Removed old log file {file}
Rotated log {file}
Uploaded {file} to bucket {svc}
Downloaded {n} bytes from {url}
File {file} opened for reading
Wrote {n} records to {file}
Synchronised clock with {host}, offset {n} ms
Certificate renewed, valid for {n} days
TLS handshake completed with {ip}
Negotiated protocol version {n}
Token issued to {user}
Session {id} expired after inactivity
Lock {id} acquired
Lock {id} released
Feature flag {svc} enabled
Feature flag {svc} switched off for maintenance
Metrics exported to {host}
Found 0 errors in {file}
Finished with no errors
No failures detected
Recovered connection to {host}
Reconnected to {svc} after {n} ms
Error count reset
Failover test completed successfully
Memory usage is {n} MB
CPU temperature normal
Disk check passed on {dev}
Link is up on {dev}
Device {dev} attached
Interface {dev} entered forwarding state
DHCP lease obtained: {ip}
Kernel command line: {file}
Registered protocol family {n}
Power state changed to on
Parsed {n} lines of {file}
Compaction of {table} finished
Replica {host} caught up
Model version {n} loaded
Training finished after {n} epochs
Report {id} generated
Search for {user} gave {n} results
Page {url} rendered in {n} ms
Subscribed to {svc}
Subscription {id} renewed
Replication of {table} started
Fetching metadata from {host}
Resolved {host} to {ip}
Retry policy: {n} attempts
Garbage collection took {n} ms
Audit: {user} viewed {file}
Build {id} passed
Client {ip} supports compression
Verified checksum of {file}
Scan of {file} complete, nothing found
"""

WARNING: Final = """
Disk usage at {pct} on {dev}
Disk {dev} is almost full
Low disk space on {host}
Free space on {file} below {n} MB
Memory usage high: {pct}
Memory pressure on {host}
Heap usage above threshold {n} MB
High CPU load on {host}: {n}
Load average is {n}
Slow query on {table}: {n} ms
Query took longer than expected: {n} ms
Slow response from {svc}
Response time of {url} exceeds {n} ms
Latency is above the target
Request {id} took {n} ms, which is slow
Retrying request {id}, attempt {n}
Retry {n} of {n} for {url}
Connection to {host} lost, trying again in {n} ms
Will retry in {n} seconds
Gateway answered 503, trying again in {n} ms
Attempt {n} to reach {svc} failed, retrying
Falling back to default value for {svc}
Falling back to cached copy of {file}
Using stale data from {svc}
Cache miss rate is high
Queue {svc} is {pct} full
Queue length {n} is growing
Backlog of {n} messages
Consumer lag is {n}
Consumer {id} is falling behind
Replica {host} lags by {n} s
Replication delay above {n} seconds
Rate limit nearly reached for {user}
Rate limiting client {ip}
Throttling requests from {ip}
Too many requests from {ip}
Quota for {user} at {pct}
Certificate expires in {n} days
Certificate will expire soon
Password of {user} expires in {n} days
License expires in {n} days
Option {svc} is deprecated
Deprecated API {url} called by {user}
This method is deprecated and will be removed
Unknown option {svc} ignored
Unknown field in {file}, ignoring
Ignoring invalid value {n} for {svc}
Skipping malformed record {id}
Skipped {n} bad rows in {file}
Dropping oversized message {id}
Duplicate key {id} ignored
Unexpected character in {file}, line {n}
Unrecognised header from {ip}
Missing optional setting {svc}
No configuration found, using defaults
Clock skew of {n} ms against {host}
Clock drift detected on {host}
Time went backwards by {n} ms
Long garbage collection pause: {n} ms
Thread {id} blocked for {n} ms
Thread pool is exhausted, queueing requests
Connection pool is near its limit: {n} of {n}
Waiting for a free connection
Open file descriptors at {pct} of the limit
Possible memory leak in {svc}
Node {host} did not answer a heartbeat
Heartbeat of {host} missed
Node {host} is unresponsive, marking suspect
Health check of {svc} flapping
Instance {id} marked unhealthy
Readiness probe failed, restarting soon
Container {id} restarted {n} times
Pod {id} evicted for resource pressure
Autoscaler cannot scale beyond {n} replicas
Failed login for {user} from {ip}
Invalid password for user {user}
Authentication failure for {user}
Several failed login attempts from {ip}
Suspicious activity from {ip}
Untrusted certificate accepted for {host}
Insecure connection to {host}
Running in debug mode in production
TLS version {n} is weak
Lock wait of {n} ms on {table}
Lock {id} held longer than {n} s
Deadlock victim chosen, transaction will be retried
Transaction {id} is long-running
Index on {table} is not used
Table {table} needs vacuum
Checkpoint took longer than the interval
Checkpoint declined, will be tried again
Temperature of {dev} above {n} degrees
Fan speed low on {host}
Battery at {pct}
Correctable memory error on {dev}
Corrected {n} ECC errors
Bad sector remapped on {dev}
SMART attribute {n} close to threshold
Packet loss {pct} on {dev}
Link {dev} is flapping
Interface {dev} dropped {n} packets
Retransmission rate is high
Stock of item {n} is low
Payment {id} needs manual review
Order {id} is delayed
Address of {user} could not be verified, continuing
Mail to {user} deferred
Bounce rate is high
Partial result returned for {id}
Truncated value in column {svc}
Rounding difference of {n} cents
Model is outdated by {n} days
Input outside of the expected range
Degraded performance of {svc}
Running with reduced redundancy
Only {n} of {n} replicas available
Delayed job {id} started late
Job {id} is taking longer than usual
Circuit breaker for {svc} half open
Session {id} has no owner
Temporary failure in name resolution
Config value {svc} overridden
Disk latency is elevated
"""

ERROR: Final = """
Failed to open file {file}
Failed to connect to {host}:{port}
Failed to write {file}
Failed to process request {id}
Failed to send mail to {user}
Failed to parse {file}
Failed to load plugin {svc}
Failed to start worker {n}
Failed to save order {id}
Could not connect to {svc}
Could not read {file}
Could not resolve host {host}
Could not acquire lock {id}
Could not allocate {n} bytes
Cannot bind to port {port}: address already in use
Cannot find module {svc}
Unable to reach {host}
Unable to create thread
Unable to deserialise message {id}
Unable to load configuration {file}
Connection refused by {host}
Connection reset by peer {ip}
Connection timed out after {n} ms
Connection aborted
Broken pipe while writing to {ip}
Timeout waiting for {svc}
Timed out after {n} ms calling {url}
Request {id} timed out
Request {id} failed with status 500
GET {url} 500 {n} ms
POST {url} 502 in {n} ms
Upstream {svc} returned 503
Internal server error
Bad gateway
Unhandled exception in request {id}
Exception in thread {id}
NullPointerException at {svc}
IndexOutOfBoundsException: index {n}
IllegalStateException: {svc} is closed
ValueError: invalid literal {id}
KeyError: {svc}
TypeError: undefined is not a function
Traceback (most recent call last)
Caused by: java.io.IOException
SQL error: relation {table} does not exist
Syntax error in query near {svc}
Query failed on {table}
Duplicate entry violates unique constraint on {table}
Foreign key violation on {table}
Transaction {id} rolled back
Deadlock found, transaction aborted
Database connection dropped
Permission denied: {file}
Access denied for user {user}
Unauthorized access to {url}
Forbidden: {user} may not write {file}
Token rejected: signature invalid
Certificate verification failed for {host}
TLS handshake failed with {ip}
Authentication service rejected {user}
File not found: {file}
No such file or directory: {file}
Missing required field {svc}
Invalid request body
Validation failed for order {id}
Checksum mismatch for {file}
Payment {id} declined by gateway
Payment {id} failed
Refund {id} could not be booked
Charge of {n} EUR was rejected
Order {id} cancelled because of an error
Mail delivery failed for {user}
Message {id} moved to dead letter queue
Message {id} lost
Producer could not publish to {svc}
Consumer crashed while handling {id}
Offset commit failed
Job {id} failed after {n} attempts
Job {id} aborted
Task {id} crashed
Worker {n} exited with code 1
Worker {n} terminated unexpectedly
Process {id} killed by signal {n}
Process exited with non-zero status {n}
Container {id} crashed
Image pull failed for {svc}
Crash loop, backing off restart of {svc}
Deployment of {svc} failed, rolling back
Health check failed for {svc}
Service {svc} not responding
Service {svc} did not start
Backup of {table} failed
Restore of {file} aborted
Snapshot {id} is incomplete
Checkpoint {n} failed
Upload of {file} failed
Download from {url} aborted
Migration {n} failed on {table}
Replication to {host} stopped
Replica {host} rejected the write
Write to {dev} failed: input/output error
I/O error on {dev}
Device {dev} not ready
Device {dev} reset
Link {dev} went down
Interface {dev} is down
DNS lookup failed for {host}
Name server {ip} unreachable
Network is unreachable
No route to host {host}
Sensor {id} gives no reading
Webhook {url} answered 404
Rejected malformed request
Assertion failed at {file}:{n}
Stack overflow in {svc}
Division by zero
Buffer overrun prevented in {svc}
Unsupported operation {svc}
Conflict while updating {id}
Version mismatch between {svc} and {host}
Session {id} lost
Retry limit reached for {url}, giving up
Gave up after {n} attempts
Circuit breaker for {svc} opened
Build {id} failed
Lookup of {user} failed
Import of {file} stopped at line {n}
Export rejected: quota exceeded
Rendering of {url} failed
Model {id} could not be loaded
Cannot renew certificate
"""

CRITICAL: Final = """
Out of memory: killed process {n}
OutOfMemoryError: Java heap space
java.lang.OutOfMemoryError: GC overhead limit exceeded
Cannot allocate memory, aborting
Kernel panic - not syncing: {svc}
Kernel oops at address {id}
System is going down
System halted
Emergency shutdown initiated
Emergency power off on {host}
No space left on device {dev}
Disk full: writes are refused
Disk {dev} is full, database stopped
Filesystem {dev} remounted read-only
Filesystem corruption detected on {dev}
Data corruption detected in {table}
Corrupted page {n} in {table}
Block {id} is corrupt on all replicas
Data loss: {n} records cannot be recovered
Unrecoverable data loss in {svc}
All replicas of partition {n} are offline
All nodes of {svc} are down
No leader for partition {n}, cluster unavailable
Cluster has lost quorum
Quorum lost, refusing all writes
Split brain detected between {host} and {host}
Cluster {svc} is unavailable
Complete outage of {svc}
Service {svc} is down for all users
Site is down
All workers are dead
All connections to the database are lost
Database is down
Database {svc} is unavailable
Primary database crashed
Primary {host} failed and no standby can take over
Database system was interrupted, recovery impossible
PANIC: could not write to log file {file}
panic: runtime error: invalid memory address
Fatal error: cannot continue
FATAL: terminating, unrecoverable error
Unrecoverable error, exiting
Fatal: the server cannot start
Application terminated abnormally
Segmentation fault in {svc}, core dumped
Core dumped: process {n} aborted
Power supply {n} failed on {host}
Power failure in rack {n}
UPS battery exhausted
Overheating: shutting down {host}
Critical temperature reached on {dev}, powering off
Fire alarm in data centre {svc}
Hardware failure on {dev}
Disk {dev} has failed
RAID array {dev} degraded, second disk failed
RAID array {dev} is lost
Multiple disk failures in array {dev}
Uncorrectable memory error on {dev}
Machine check exception: uncorrected error
Fatal hardware error on {host}
Controller {dev} is dead
Root certificate expired, all clients are rejected
Certificate of {host} has expired, connections refused
License expired, service stopped
Security breach detected on {host}
Intrusion detected from {ip}
Unauthorized root access on {host}
Root shell opened from {ip}
Ransomware activity: {n} files encrypted
Malware found in {file}
Secret keys leaked from {svc}
Private key of {host} compromised
Data exfiltration by {user}
SQL injection succeeded on {url}
Firewall disabled on {host}
Audit log was tampered with
All payments are failing
Payment processing halted
Ledger is inconsistent, booking stopped
Money was booked twice for {n} customers
Orders are being lost
Customer data exposed to other users
All requests fail with 500
Every backend of {svc} is unhealthy
No healthy upstream left for {svc}
Load balancer has no servers available
Message broker is down, producers blocked
Broker {host} shut down: log directory failed
Topic {svc} has no in-sync replicas, data may be lost
Entire region {svc} unreachable
Network partition: {host} is isolated from the cluster
Core switch {host} failed
Backbone link lost, site isolated
DNS is down for the whole zone
Backup is corrupt, no restore possible
All backups deleted
Table {table} was dropped in production
Volume {id} destroyed
Storage pool {svc} failed
Write-ahead log is corrupted
Transaction log full, database in emergency mode
Transaction id wraparound imminent, database refuses commands
Master key lost, data cannot be decrypted
Consensus lost, cluster halted
Control plane is down
Cannot schedule any pod: all nodes not ready
Node {host} is dead, {n} pods lost
Mass failure of {n} instances
Deadlock of the whole system, restart required
Watchdog timeout, system hung
System hang detected, rebooting
Reactor scram triggered
Safety interlock tripped, line stopped
Emergency stop pressed on {dev}
Irreversible damage to {dev}
Immediate action required on {host}
Catastrophic failure of {svc}
Abort: internal consistency check failed, data may be damaged
Metadata of {svc} is corrupted, cannot start
Checksum errors on all copies of {file}
Recovery failed, data is lost
Failover failed, no primary left
Integrity of {table} is broken
Memory exhausted, all workers were killed
Production database deleted
"""

#: What can be said of anything: the subject is drawn, so that "database" or "payment" itself means nothing.
PHRASES_INFORMATIONAL: Final = """
{subject} is ready
{subject} ready to serve
{subject} started
{subject} starting
{subject} stopped as requested
{subject} was shut down cleanly
{subject} is running
{subject} initialised
{subject} initializing
{subject} loaded successfully
{subject} completed
{subject} complete
{subject} succeeded
{subject} done in {n} ms
{subject} finished
{subject} created
{subject} updated
{subject} deleted by {user}
{subject} saved
{subject} opened
{subject} closed
{subject} accepted
{subject} confirmed
{subject} approved
{subject} sent to {host}
{subject} received from {host}
{subject} processed
{subject} registered
{subject} added
{subject} removed
{subject} enabled
{subject} activated
{subject} resumed
{subject} restored to normal
{subject} recovered
{subject} is back to normal
{subject} is healthy again
{subject} resolved
{subject} reconnected
{subject} connected
{subject} established
{subject} assigned to {host}
{subject} allocated
{subject} released
{subject} scheduled
{subject} queued
{subject} dispatched
{subject} refreshed
{subject} verified
{subject} validated
{subject} authenticated
{subject} granted
{subject} configured with {n}
{subject} set to {n}
{subject} changed from {n} to {n}
{subject} version is {n}
{subject} state is now active
{subject} found
{subject} selected
{subject} count is {n}
{subject} synchronised
{subject} replicated
{subject} archived
{subject} cleaned
{subject} flushed
{subject} printed
{subject} OK
checking {subject}
reading {subject}
writing {subject}
opening {subject}
closing {subject}
creating {subject}
waiting for {subject}
processing {subject}
using {subject}
no problems with {subject}
no change in {subject}
{subject} passed all checks
all checks of {subject} passed
successfully handled {subject}
connected to {subject}
new {subject}
end of {subject}
begin of {subject}
got {subject} from {host}
returning {subject}
{subject}: {n} of {n}
{subject} 200 OK
"""

PHRASES_WARNING: Final = """
{subject} is slow
{subject} is getting slower
{subject} took {n} ms, more than usual
{subject} took too long, continuing
{subject} is delayed
{subject} is late by {n} s
{subject} lags behind
{subject} is nearly exhausted
{subject} is almost exhausted
{subject} is running low
{subject} is close to its limit
{subject} approaches its limit
{subject} at {pct} of capacity
{subject} above {pct}
{subject} exceeds the recommended size
{subject} is larger than recommended
{subject} exceeded soft limit
{subject} threshold crossed
{subject} usage is high
{subject} is overloaded, slowing down
{subject} under pressure
{subject} is degraded
{subject} is unstable
{subject} is flapping
{subject} is suspicious
{subject} looks wrong, ignoring
{subject} is unusual
{subject} is unexpected
unexpected {subject}
{subject} is unknown, ignored
{subject} was ignored
{subject} was skipped
skipping {subject}
ignoring {subject}
{subject} was dropped, continuing without it
{subject} is missing, using default
{subject} not set, using default {n}
{subject} not configured
{subject} not found, falling back
{subject} could not be refreshed, keeping the old one
{subject} is outdated
{subject} is stale
{subject} is deprecated
{subject} will be removed in a future version
{subject} is obsolete
{subject} expires soon
{subject} will expire
{subject} about to expire
{subject} is not recommended
{subject} should not be used in production
{subject} is insecure
{subject} may be incomplete
{subject} may be inaccurate
{subject} may not work
{subject} might fail
{subject} is being retried
{subject} will be retried
retrying {subject}
trying again: {subject}
{subject} needs attention
{subject} requires review
{subject} is throttled
throttled {subject}
{subject} postponed
{subject} deferred
{subject} reduced to {n}
{subject} temporarily unavailable, will retry
{subject} temporarily disabled
{subject} did not respond in time, trying another
no response from {subject} yet
still waiting for {subject}
{subject} blocked for {n} s
{subject} contention is high
{subject} mismatch ignored
{subject} conflict, last writer wins
{subject} truncated
{subject} exceeds {n}, truncating
{subject} duplicated
duplicate {subject}
{subject} out of order
{subject} out of range, clamped
{subject} restarted repeatedly
{subject} reconnecting
{subject} fluctuates
{subject} rises
{subject} leak suspected
{subject} wearing out
"""

PHRASES_ERROR: Final = """
{subject} failed
{subject} has failed
{subject} failed with code {n}
{subject} failure
failure of {subject}
error in {subject}
error while handling {subject}
error reading {subject}
error writing {subject}
an error occurred during {subject}
{subject} error
{subject} returned an error
{subject} ended with error {n}
{subject} raised an exception
exception while processing {subject}
unexpected exception in {subject}
{subject} crashed
{subject} aborted
{subject} was aborted
{subject} interrupted
{subject} cancelled after an error
{subject} terminated with status 1
{subject} exited unexpectedly
{subject} died
{subject} rejected
{subject} was refused
{subject} denied
{subject} not permitted
{subject} not allowed
{subject} forbidden
{subject} is invalid
invalid {subject}
illegal {subject}
bad {subject}
malformed {subject}
{subject} is broken
broken {subject}
{subject} not found
{subject} does not exist
no such {subject}
{subject} is missing
missing {subject}
{subject} timed out
timeout in {subject}
timeout while waiting for {subject}
{subject} unreachable
{subject} is unreachable
{subject} not available
{subject} unavailable
{subject} disconnected
lost connection to {subject}
{subject} hung up
{subject} closed unexpectedly
{subject} was lost
{subject} could not be opened
{subject} could not be created
{subject} could not be saved
{subject} could not be found
{subject} could not be started
{subject} cannot be read
{subject} cannot be used
{subject} was not delivered
{subject} did not complete
{subject} not completed
{subject} does not respond
unable to get {subject}
unable to start {subject}
unable to send {subject}
could not fetch {subject}
could not initialise {subject}
failed to initialize {subject}
failed to create {subject}
failed to update {subject}
failed to delete {subject}
failed to fetch {subject}
cannot open {subject}
cannot create {subject}
giving up on {subject}
{subject} rolled back
rolling back {subject}
{subject} mismatch, rejected
{subject} is incompatible
{subject} unsupported
{subject} not supported
{subject} threw
{subject} 500
{subject}: errno {n}
{subject} verification failed
wrong {subject}
{subject} overflow
{subject} stopped unexpectedly
"""

PHRASES_CRITICAL: Final = """
{subject} is down
{subject} down, no fallback
{subject} is completely down
{subject} outage
total outage: {subject}
{subject} is dead
{subject} is corrupt
{subject} is corrupted
corruption in {subject}
corrupt {subject} found, stopping
{subject} destroyed
{subject} permanently lost
{subject} lost for ever
loss of {subject} for all customers
{subject} unavailable for everyone
{subject} has halted
{subject} halted
{subject} shut down by emergency
emergency: {subject}
emergency stop of {subject}
panic in {subject}
{subject} panicked
fatal {subject}
fatal failure of {subject}
fatal error in {subject}, exiting
fatal error in {subject}, shutting down
critical failure in {subject}
critical: {subject}
critical error, {subject} stopped
catastrophic {subject}
disaster: {subject}
disaster recovery triggered for {subject}
{subject} exhausted, system stopped
{subject} full, no more writes possible
{subject} is full, all writes fail
{subject} ran out of memory
{subject} out of memory
out of memory in {subject}
{subject} killed by the out-of-memory killer
oom-killer invoked by {subject}
{subject} ran out of disk space
out of disk space for {subject}
{subject} cannot be recovered
{subject} is unrecoverable
unrecoverable {subject}
irrecoverable loss of {subject}
{subject} is beyond repair
{subject} compromised
{subject} was hacked
attack on {subject} succeeded
breach of {subject}
{subject} leaked
{subject} exposed publicly
{subject} stolen
{subject} tampered with
{subject} was wiped
{subject} burnt
{subject} caught fire
{subject} melted
{subject} exploded
{subject} overheated and was powered off
{subject} lost power
power loss: {subject}
{subject} hardware fault, replace immediately
{subject} must be replaced now
{subject} requires immediate action
act now: {subject}
page the operator: {subject}
data of {subject} is inconsistent, refusing to start
{subject} in inconsistent state, refusing to continue
{subject} refuses to start, data damaged
{subject} can no longer serve any request
no {subject} left
no remaining {subject}
all {subject} lost
all {subject} offline
every {subject} failed
last {subject} failed
{subject} hung, whole system blocked
system-wide failure of {subject}
system crash caused by {subject}
{subject} brought the system down
{subject} in lockdown
{subject} violated safety limits
quorum of {subject} lost
{subject} split brain
{subject} isolated, cluster stopped
"""

_SUBJECTS: Final = (
    "connection", "request", "response", "session", "user", "account", "payment", "order", "invoice", "cart", "database",
    "table", "index", "query", "transaction", "replica", "partition", "broker", "queue", "topic", "message", "event",
    "consumer", "producer", "cache", "storage", "disk", "volume", "filesystem", "file", "directory", "backup", "snapshot",
    "memory", "buffer", "heap", "thread", "process", "worker", "job", "task", "service", "server", "client", "node",
    "cluster", "container", "pod", "image", "deployment", "network", "interface", "link", "port", "socket", "certificate",
    "key", "token", "password", "configuration", "plugin", "module", "kernel", "driver", "device", "sensor", "controller",
    "power supply", "fan", "temperature", "clock", "scheduler", "pipeline", "checkpoint", "model", "report", "mail",
    "webhook", "gateway", "proxy", "load balancer", "search", "record", "block", "page", "lock", "state", "version",
)  # fmt: skip

#: Least harmful first; the order of the classes everywhere.
SEVERITIES: Final = ("informational", "warning", "error", "critical")
_TEXTS: Final = (
    INFORMATIONAL + PHRASES_INFORMATIONAL,
    WARNING + PHRASES_WARNING,
    ERROR + PHRASES_ERROR,
    CRITICAL + PHRASES_CRITICAL,
)

_FILLS: Final[dict[str, tuple[str, ...]]] = {
    "svc": ("cart", "billing", "auth-service", "search", "ingest", "gateway", "orders-db", "profile", "media", "router"),
    "host": ("node-7", "db-2.internal", "10.3.4.8", "worker-a1", "edge03", "rack4-n12", "broker-1"),
    "user": ("alice", "bob", "svc-batch", "u48213", "root", "mallory@example.com"),
    "file": ("/var/lib/app/data.db", "/etc/app.yaml", "C:\\data\\in.csv", "part-00017.parquet", "config.toml", "/tmp/x1"),
    "url": ("/api/v1/orders", "https://pay.example.com/charge", "/login", "/items/42?x=1"),
    "table": ("orders", "public.users", "events_2024", "ledger"),
    "dev": ("/dev/sda1", "eth0", "nvme1n1", "md0", "sensor-3", "DIMM_A2"),
    "id": ("7f3a9c", "req-18231", "0x7fee12", "a81b-44c2", "ord_9921", "550e8400-e29b"),
}  # fmt: skip
_BEFORE: Final = (
    *[""] * 6,
    "[main] ",
    "[{svc}] ",
    "{svc}: ",
    "worker {n}: ",
    "com.example.{svc}.Server - ",
    "req={id} ",
    "{host} {svc}[{n}]: ",
)
_AFTER: Final = (*[""] * 6, " (id={id})", ", host {host}", " [{n} ms]", " for tenant {id}", " trace={id}", " in {svc}")  # fmt: skip


def wordings(part: Part) -> Iterator[tuple[int, str]]:
    """Severity (its place in `SEVERITIES`) and wording, of one part.

    >>> next(wordings("learn"))
    (0, 'Server started on port {port}')
    """
    for severity, text in enumerate(_TEXTS):
        for wording in filter(None, text.splitlines()):
            if _part(wording) == part:
                yield severity, wording


def _part(wording: str) -> Part:
    place = zlib.crc32(wording.encode()) % 10
    return "test" if place < 2 else "calibrate" if place < 3 else "learn"


def bare(wording: str) -> str:
    """A wording without what is filled in.

    >>> bare("Listening on {ip}:{port}")
    'Listening on :'
    """
    return re.sub(r"\{\w+\}", "", wording)


def messages(part: Part, copies: int, seed: int) -> Iterator[tuple[int, str]]:
    """Severity and message: each wording of a part some times, with other names, numbers and surroundings."""
    draw = random.Random(seed)
    for severity, wording in wordings(part):
        for _ in range(copies):
            yield severity, _filled(draw.choice(_BEFORE) + wording + draw.choice(_AFTER), draw)


def _filled(template: str, draw: random.Random) -> str:
    values = {name: draw.choice(choices) for name, choices in _FILLS.items()}
    numbers = {
        "subject": draw.choice(_SUBJECTS),
        "n": str(draw.choice((3, 17, 250, 4711, 120_000))),
        "port": str(draw.choice((80, 8080, 5432, 9092))),
        "pct": f"{draw.randint(80, 99)} %",
        "ip": f"10.{draw.randint(0, 9)}.{draw.randint(0, 99)}.{draw.randint(1, 254)}",
    }
    return template.format_map(values | numbers)
