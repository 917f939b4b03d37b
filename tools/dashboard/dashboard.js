// SPDX-License-Identifier: MIT
// dashboard.js - the page: a document a second from the exporter's stream, shown.
//
// Everything that comes from the broker is text: it is put into the page as text, never as markup.
"use strict";

const byId = (id) => document.getElementById(id);

// ---------------------------------------------------------------------------------------------
// State

const past = new History();
const slow = new Map(); // number -> slow statement
const events = new Map(); // number -> event
let latest = null; // newest document
let arrived = 0; // when, in ms of performance.now()
let broker = null; // {pid, start} of the broker that the numbers belong to
let loading = false; // the history is on its way
let connected = false;

const KEEP = 1000; // slow statements and events that the page remembers

function remember(map, items) {
	for (const item of items ?? []) {
		map.set(item.number, item);
	}
	while (map.size > KEEP) {
		map.delete(Math.min(...map.keys()));
	}
}

async function json(path) {
	const response = await fetch(path);
	return response.ok ? response.json() : null;
}

// A broker that was restarted counts anew: what was remembered of the old one goes.
function sameBroker(b) {
	const age = b.uptime_seconds + (b.state === "dead" ? b.heartbeat_age_seconds : 0);
	const start = b.time_seconds - age;
	if (broker !== null && (b.pid !== broker.pid || Math.abs(start - broker.start) > 2)) {
		slow.clear();
		events.clear();
	}
	broker = {pid: b.pid, start};
}

async function loadHistory() {
	if (loading) {
		return;
	}
	loading = true;
	const pool = byId("pool").value;
	try {
		const doc = await json("api/history.json" +
			(pool === "" ? "" : "?pool=" + encodeURIComponent(pool)));
		if (doc !== null && byId("pool").value === pool) {
			past.load(doc);
		}
	} catch {
		// the stream says whether the exporter is there
	}
	loading = false;
	drawCharts();
}

// What happened before the page was opened; the stream carries the newest only.
async function loadPast() {
	try {
		remember(slow, (await json("api/slow.json"))?.slow);
		remember(events, (await json("api/events.json"))?.events);
	} catch {
		return;
	}
	show();
}

// ---------------------------------------------------------------------------------------------
// Tables

const TONES = {
	running: "good", up: "good", attached: "soft", idle: "soft",
	starting: "warn", degraded: "warn", paused: "warn", suspect: "warn", recovering: "warn",
	stalled: "warn", stopped: "warn", evicted: "warn", pinned: "warn",
	down: "bad", dead: "bad",
};
const tone = (state) => TONES[state] ?? "";

const point = (pool) => latest?.point?.pools?.[pool] ?? {};

const serves = (p) => p.writable ? "reads, writes" : p.readable ? "reads only" : "nothing";

const pools = new Table("t-pools", [
	{title: "Pool", value: (p) => p.name},
	{title: "State", value: (p) => p.state, tone: (p) => tone(p.state)},
	{title: "Serves", value: serves,
		tone: (p) => !p.readable ? "bad" : p.writable && !p.degraded ? "good" : "warn"},
	{title: "Server", value: (p) => p.server ?? "–"},
	{title: "Stmts/s", kind: "num", value: (p) => point(p.name).statements,
		text: (p) => format.number(point(p.name).statements)},
	{title: "Errs/s", kind: "num", value: (p) => point(p.name).errors,
		text: (p) => format.number(point(p.name).errors),
		tone: (p) => point(p.name).errors > 0 ? "bad" : ""},
	{title: "p50", kind: "num", value: (p) => point(p.name).run_p50,
		text: (p) => format.duration(point(p.name).run_p50)},
	{title: "p95", kind: "num", value: (p) => point(p.name).run_p95,
		text: (p) => format.duration(point(p.name).run_p95)},
	{title: "p99", kind: "num", value: (p) => point(p.name).run_p99,
		text: (p) => format.duration(point(p.name).run_p99)},
	{title: "Workers", kind: "num", value: (p) => p.cl_active},
	{title: "Waiting", kind: "num", value: (p) => p.cl_waiting,
		tone: (p) => p.cl_waiting > 0 ? "warn" : ""},
	{title: "Oldest", kind: "num", value: (p) => p.maxwait + p.maxwait_us / 1e6,
		text: (p) => format.duration(p.maxwait + p.maxwait_us / 1e6)},
	{title: "Active", kind: "num", value: (p) => point(p.name).active},
	{title: "Leased", kind: "num", value: (p) => point(p.name).leased},
	{title: "Pinned", kind: "num", value: (p) => point(p.name).pinned},
	{title: "Idle", kind: "num", value: (p) => point(p.name).idle},
	{title: "Max", kind: "num", value: (p) => p.max_size},
], (p) => p.name, "There are no pools.");

const servers = new Table("t-servers", [
	{title: "Server", value: (s) => s.name},
	{title: "Kind", value: (s) => s.kind},
	{title: "Role", value: (s) => s.role},
	{title: "Verdict", value: (s) => s.state, tone: (s) => tone(s.state)},
	{title: "Since", kind: "num", value: (s) => s.since_seconds,
		text: (s) => s.since_seconds > 0 ? format.duration(s.since_seconds) : "–"},
	{title: "Connections", kind: "num", value: (s) => s.connections,
		text: (s) => s.connections + (s.max_connections ? " of " + s.max_connections : "")},
	{title: "Lag", kind: "num", value: (s) => s.lag_seconds,
		text: (s) => s.role !== "standby" ? "–"
			: format.duration(s.lag_seconds) + " " + format.bytes(s.lag_bytes)},
	{title: "Probe", kind: "num", value: (s) => s.latency_seconds,
		text: (s) => s.latency_seconds > 0 ? format.duration(s.latency_seconds) : "–"},
	{title: "Address", value: (s) => s.address},
	{title: "Last error", kind: "wide", value: (s) => s.last_error},
], (s) => s.name, "There are no servers.");

const shapes = new Table("t-shapes", [
	{title: "Share", kind: "num", value: (s) => s.share,
		text: (s) => (s.share * 100).toFixed(1) + " %"},
	{title: "Total", kind: "num", value: (s) => s.total, text: (s) => format.duration(s.total)},
	{title: "Mean", kind: "num", value: (s) => s.mean, text: (s) => format.duration(s.mean)},
	{title: "p95", kind: "num", value: (s) => s.p95, text: (s) => format.duration(s.p95)},
	{title: "Count", kind: "num", value: (s) => s.calls, text: (s) => format.number(s.calls)},
	{title: "Statement", kind: "code", value: (s) => s.sql},
	{title: "Tags", kind: "text", value: (s) => s.tags.join(", ")},
	{title: "Max", kind: "num", value: (s) => s.max, text: (s) => format.duration(s.max)},
	{title: "Errors", kind: "num", value: (s) => s.errors, tone: (s) => s.errors > 0 ? "bad" : ""},
	{title: "Rows", kind: "num", value: (s) => s.rows, text: (s) => format.number(s.rows)},
	{title: "Last seen", kind: "time", value: (s) => s.seen, text: (s) => format.time(s.seen)},
	{title: "Pool", value: (s) => s.pool},
], (s) => s.key, "No statements so far.", [1, true]);

const slowest = new Table("t-slow", [
	{title: "Ended", kind: "time", value: (q) => q.time_seconds,
		text: (q) => format.time(q.time_seconds)},
	{title: "Ran", kind: "num", value: (q) => q.run_seconds,
		text: (q) => format.duration(q.run_seconds) + (q.sampled ? " (sample)" : "")},
	{title: "Waited", kind: "num", value: (q) => q.wait_seconds,
		text: (q) => format.duration(q.wait_seconds)},
	{title: "Error", value: (q) => q.code === 0 ? "" : q.sqlstate || "code " + q.code,
		tone: () => "bad"},
	{title: "Statement", kind: "code",
		value: (q) => q.sql + (q.truncated ? " … (" + q.sql_bytes + " bytes)" : "")},
	{title: "Tag", kind: "text", value: (q) => q.tag},
	{title: "Rows", kind: "num", value: (q) => q.rows, text: (q) => format.number(q.rows)},
	{title: "Worker", kind: "num", value: (q) => q.pid},
	{title: "Pool", value: (q) => q.pool ?? "–"},
	{title: "Server", value: (q) => q.server ?? "–"},
], (q) => q.number, "No slow statements so far.");

// Text of the shape that a connection runs, if it is among those that are shown.
function shapeOf(lease) {
	return (latest.statements ?? []).find(
		(s) => s.fingerprint === lease.fingerprint && s.pool === lease.pool)?.statement ?? "";
}

const leases = new Table("t-leases", [
	{title: "Held for", kind: "num", value: (l) => l.held_seconds,
		text: (l) => format.duration(l.held_seconds),
		tone: (l) => l.held_seconds > 30 ? "warn" : ""},
	{title: "Worker", kind: "num", value: (l) => l.holder?.pid, text: (l) => l.holder?.pid ?? "–"},
	{title: "Name", value: (l) => l.holder?.name},
	{title: "Tag", kind: "wide", value: (l) => l.holder?.tag},
	{title: "Runs for", kind: "num", value: (l) => l.running_seconds,
		text: (l) => l.running_seconds > 0 ? format.duration(l.running_seconds) : "–"},
	{title: "Statement", kind: "code", value: (l) => shapeOf(l)},
	{title: "State", value: (l) => l.state, tone: (l) => tone(l.state)},
	{title: "Pool", value: (l) => l.pool ?? "–"},
	{title: "Server", value: (l) => l.server ?? "–"},
	{title: "Backend", kind: "num", value: (l) => l.backend_pid || null},
	{title: "In flight", kind: "num", value: (l) => l.in_flight},
], (l) => l.slot + "/" + l.generation, "Nobody holds a connection.");

const workers = new Table("t-workers", [
	{title: "Worker", kind: "num", value: (w) => w.pid},
	{title: "Name", value: (w) => w.name},
	{title: "State", value: (w) => w.state, tone: (w) => tone(w.state)},
	{title: "Pool", value: (w) => w.pool ?? "–"},
	{title: "In flight", kind: "num", value: (w) => w.in_flight},
	{title: "Leases", kind: "num", value: (w) => w.leases},
	{title: "Statements", kind: "num", value: (w) => w.statements,
		text: (w) => format.number(w.statements)},
	{title: "Errors", kind: "num", value: (w) => w.errors, tone: (w) => w.errors > 0 ? "warn" : ""},
	{title: "Quiet for", kind: "num", value: (w) => w.idle_seconds,
		text: (w) => format.duration(w.idle_seconds)},
	{title: "Attached", kind: "num", value: (w) => w.attached_seconds,
		text: (w) => format.duration(w.attached_seconds)},
	{title: "Tag", kind: "wide", value: (w) => w.tag},
], (w) => w.slot + "/" + w.incarnation, "No workers are attached.");

const EVENT_TONES = {
	server_up: "good", start: "good",
	failover: "warn", role: "warn", eviction: "warn", leak: "warn", pin: "soft",
	server_down: "bad", worker_death: "bad", connect_failure: "bad", error: "bad", refusal: "warn",
};

const eventTable = new Table("t-events", [
	{title: "Time", kind: "time", value: (e) => e.time_seconds,
		text: (e) => format.time(e.time_seconds)},
	{title: "Event", value: (e) => e.kind.replace(/_/g, " "), tone: (e) => EVENT_TONES[e.kind] ?? ""},
	{title: "What", kind: "wide", value: (e) => e.text},
], (e) => e.number, "No events so far.");

// What shapes of statements cost, as the broker counted it.
function counted() {
	return latest.statements.map((s) => ({
		key: s.pool + "/" + s.fingerprint, pool: s.pool, share: s.share, total: s.total_seconds,
		mean: s.mean_seconds, p95: s.p95_seconds, max: s.max_seconds, calls: s.calls,
		errors: s.errors, rows: s.rows, tags: s.tags,
		seen: latest.broker.time_seconds - s.last_seconds,
		sql: s.statement + (s.truncated ? " …" : ""),
	}));
}

// For brokers that do not count: the slow statements of one shape, added up.
function byShape() {
	const all = new Map();
	let total = 0;
	for (const q of slow.values()) {
		const shape = /^0*$/.test(q.fingerprint) ? q.sql : q.fingerprint;
		const key = q.pool + "/" + shape;
		let s = all.get(key);
		if (s === undefined) {
			s = {key, pool: q.pool, sql: q.sql, calls: 0, errors: 0, rows: 0, total: 0, max: 0,
				seen: 0, tags: []};
			all.set(key, s);
		}
		s.calls++;
		s.errors += q.code !== 0 ? 1 : 0;
		s.rows += q.rows;
		s.total += q.run_seconds;
		s.mean = s.total / s.calls;
		s.max = Math.max(s.max, q.run_seconds);
		s.seen = Math.max(s.seen, q.time_seconds);
		if (q.tag !== "" && s.tags.length < 5 && !s.tags.includes(q.tag)) {
			s.tags.push(q.tag);
		}
		total += q.run_seconds;
	}
	for (const s of all.values()) {
		s.share = total > 0 ? s.total / total : 0;
	}
	return [...all.values()].sort((a, b) => b.total - a.total).slice(0, 50);
}

// ---------------------------------------------------------------------------------------------
// Charts

const CHANGES = new Set(["failover", "role", "server_up", "server_down", "connect_failure"]);
const MARKED = new Set(["failover", "role", "server_up", "server_down", "worker_death", "eviction"]);
const marks = () => [...events.values()].filter((e) => MARKED.has(e.kind))
	.map((e) => ({time: e.time_seconds, tone: EVENT_TONES[e.kind] ?? "soft"}));

const percentiles = (name, key) => ({name, series: [
	[key + "_p50", "p50"], [key + "_p95", "p95"], [key + "_p99", "p99"],
]});

const charts = [
	new Chart(byId("charts"), "Throughput", {
		statements: {name: "statements/s", series: [
			["statements", "statements/s"], ["errors", "errors/s"],
		]},
		rows: {name: "rows/s", series: [["rows", "rows/s"]]},
	}, {format: format.number, marks}),
	new Chart(byId("charts"), "Latency", {
		run: percentiles("execution", "run"),
		wait: percentiles("queue wait", "wait"),
		handoff: percentiles("hand-off", "handoff"),
	}, {format: format.duration, log: true, marks}),
	new Chart(byId("charts"), "Queue", {
		queue: {name: "queue", series: [["waiters", "waiting"], ["in_flight", "in flight"]]},
	}, {format: format.number, marks}),
	new Chart(byId("charts"), "Connections", {
		connections: {name: "connections", series: [
			["idle", "idle"], ["active", "active"], ["leased", "leased"], ["pinned", "pinned"],
		]},
	}, {format: format.number, marks}),
];

function drawCharts() {
	const range = Number(byId("range").value);
	const end = past.last || Date.now() / 1000;
	for (const chart of charts) {
		chart.draw(past, [end - range, end]);
	}
}

// ---------------------------------------------------------------------------------------------
// The page

const TILES = [
	["Statements/s", (p) => format.number(p.statements)],
	["Errors/s", (p) => format.number(p.errors), (p) => p.errors > 0 ? "bad" : ""],
	["p50", (p) => format.duration(p.run_p50)],
	["p95", (p) => format.duration(p.run_p95)],
	["p99", (p) => format.duration(p.run_p99)],
	["Queue wait p95", (p) => format.duration(p.wait_p95)],
	["Waiting", (p) => format.number(p.waiters), (p) => p.waiters > 0 ? "warn" : ""],
	["In flight", (p) => format.number(p.in_flight)],
	["Leases", (p) => format.number(p.leases)],
	["Workers", () => format.number(latest.nworkers)],
];

const tiles = TILES.map(([title]) => {
	const div = document.createElement("div");
	const dt = document.createElement("dt");
	const dd = document.createElement("dd");
	dt.textContent = title;
	dd.textContent = "–";
	div.append(dt, dd);
	byId("tiles").append(div);
	return dd;
});

function showTiles() {
	const pool = byId("pool").value;
	const now = (pool === "" ? latest.point?.all : point(pool)) ?? {};
	TILES.forEach(([, text, toneOf], i) => {
		setText(tiles[i], text(now));
		tiles[i].className = toneOf?.(now) ?? "";
	});
}

// What is wrong with the broker or with the page's own connection; "" if nothing is.
function alarmText() {
	const b = latest?.broker;
	if (!connected || performance.now() - arrived > 5000) {
		return "No data: the connection to the exporter is lost. Trying again.";
	}
	if (b === null) {
		return "There is no board of a broker. Waiting for one.";
	}
	const beat = format.duration(b.heartbeat_age_seconds);
	const who = "The broker (pid " + b.pid + ") is " + b.state;
	switch (b.state) {
	case "running": return "";
	case "dead": return who + "; its heart last beat " + beat + " ago. This is what it left.";
	default: return who + ": its loop last turned " + beat + " ago.";
	}
}

function showState() {
	const alarm = alarmText();
	const b = latest?.broker;
	const state = latest === null || !connected ? "connecting" : b?.state ?? "no broker";
	setText(byId("alarm"), alarm);
	byId("alarm").hidden = alarm === "" || latest === null;
	setText(byId("state"), state);
	byId("state").className = "badge " + tone(state);
	document.title = "shmbroker: " + state;
	if (b) {
		setText(byId("about"), "pid " + b.pid + ", up " + format.duration(b.uptime_seconds));
	}
}

function showPoolMenu() {
	const select = byId("pool");
	const names = latest.pools.map((p) => p.name);
	const there = [...select.options].slice(1).map((o) => o.value);
	if (names.join("\n") !== there.join("\n")) {
		const chosen = select.value;
		select.replaceChildren(select.options[0], ...names.map((n) => new Option(n, n)));
		select.value = names.includes(chosen) ? chosen : "";
	}
}

function showTimeline() {
	const changes = [...events.values()]
		.filter((e) => CHANGES.has(e.kind))
		.sort((a, b) => b.number - a.number).slice(0, 50);
	const key = changes.map((e) => e.number).join();
	const list = byId("timeline");
	if (list.dataset.shown === key) {
		return;
	}
	list.dataset.shown = key;
	list.replaceChildren(...changes.map((e) => {
		const li = document.createElement("li");
		const time = document.createElement("time");
		const text = document.createElement("span");
		li.className = EVENT_TONES[e.kind] ?? "";
		time.dateTime = new Date(e.time_seconds * 1000).toISOString();
		time.textContent = format.time(e.time_seconds);
		text.textContent = " " + e.text;
		li.append(time, " " + e.kind.replace(/_/g, " "), text);
		return li;
	}));
}

const newestFirst = (map, n) => [...map.values()].sort((a, b) => b.number - a.number).slice(0, n);

function countText(shown, all) {
	return shown < all ? shown + " of " + all : String(all);
}

function show() {
	showState();
	if (latest === null || latest.broker === null || byId("pause").ariaPressed === "true") {
		return;
	}
	showPoolMenu();
	showTiles();
	pools.fill(latest.pools);
	servers.fill(latest.servers);
	shapes.fill(latest.statements ? counted() : byShape());
	setText(byId("h-shapes"), latest.statements ? "Statements by time" : "Slow statements by time");
	slowest.fill(newestFirst(slow, 50));
	leases.fill(latest.leases);
	workers.fill(latest.workers);
	eventTable.fill(newestFirst(events, 100));
	showTimeline();
	setText(byId("n-leases"), countText(latest.leases.length, latest.nleases));
	setText(byId("n-workers"), countText(latest.workers.length, latest.nworkers));
	setText(byId("no-slow"), latest.why_no_slow ? "Not shown: " + latest.why_no_slow + "." : "");
	byId("no-slow").hidden = !latest.why_no_slow;
	drawCharts();
}

function take(doc) {
	latest = doc;
	arrived = performance.now();
	if (doc.broker !== null) {
		sameBroker(doc.broker);
	}
	remember(slow, doc.slow);
	remember(events, doc.events);
	if (doc.point !== null) {
		const pool = byId("pool").value;
		if (past.gap(doc.point.time)) {
			loadHistory();
		} else {
			past.add(doc.point.time,
				pool === "" ? doc.point.all : doc.point.pools[pool]);
		}
	}
	show();
}

function listen() {
	const source = new EventSource("events");
	source.onopen = () => {
		connected = true;
		loadPast();
	};
	source.onmessage = (message) => {
		connected = true;
		take(JSON.parse(message.data));
	};
	source.onerror = () => {
		connected = false;
		showState();
		if (source.readyState === EventSource.CLOSED) { // refused, not only broken
			setTimeout(listen, 2000);
		}
	};
}

byId("pool").addEventListener("change", () => {
	past.clear();
	loadHistory();
	if (latest !== null && latest.broker !== null) {
		showTiles();
	}
});
byId("range").addEventListener("change", drawCharts);
byId("pause").addEventListener("click", (event) => {
	const button = event.currentTarget;
	button.ariaPressed = String(button.ariaPressed !== "true");
	setText(button, button.ariaPressed === "true" ? "Resume" : "Pause");
	show();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
	charts.forEach((chart) => chart.build());
});
setInterval(showState, 1000);
listen();
