// SPDX-License-Identifier: MIT
// charts.js - the last hour as charts (uPlot), and the points they are drawn from.
"use strict";

const HOUR = 3600;
const GAP = 3.5; // seconds between points, from which on some are missing

// What has been measured: an array per field, the same index is the same second.
class History {
	constructor() {
		this.clear();
	}

	clear() {
		this.fields = {time: []};
	}

	// The document of api/history.json.  What is older than it stays: an exporter that was started
	// again remembers less than this page.
	load(document) {
		const {pool, ...fields} = document;
		const old = this.fields;
		const first = fields.time[0] ?? Infinity;
		let keep = old.time.findIndex((t) => t >= first);
		keep = keep < 0 ? old.time.length : keep;
		const missing = keep > 0 && first < Infinity && first - old.time[keep - 1] > GAP;
		const hole = missing ? 1 : 0; // a point of nothing: no line goes across
		const merged = {};
		for (const key of new Set([...Object.keys(old), ...Object.keys(fields)])) {
			const before = Array.from({length: keep + hole},
				(_, i) => i < keep ? old[key]?.[i] ?? null
					: key === "time" ? old.time[keep - 1] + 1 : null);
			const after = fields.time.map((_, i) => fields[key]?.[i] ?? null);
			merged[key] = [...before, ...after].slice(-HOUR);
		}
		this.fields = merged;
	}

	get last() {
		return this.fields.time.at(-1) ?? 0;
	}

	// True if points are missing between the last one and this.
	gap(time) {
		return this.last === 0 || time - this.last > GAP;
	}

	add(time, point) {
		if (time <= this.last) {
			return;
		}
		this.fields.time.push(time);
		const n = this.fields.time.length;
		for (const [key, value] of Object.entries(point ?? {})) {
			this.fields[key] ??= [];
			this.fields[key][n - 1] = value;
		}
		if (n > HOUR) {
			for (const values of Object.values(this.fields)) {
				values.splice(0, n - HOUR);
			}
		}
	}

	// Arrays of equal length for a chart; what is not known is null.
	columns(keys) {
		const {time} = this.fields;
		return [time, ...keys.map((key) => {
			const values = this.fields[key] ?? [];
			return time.map((_, i) => values[i] ?? null);
		})];
	}
}

function color(name) {
	return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

// Indices of points without a neighbour: no line goes through them, so they are drawn as dots.
function isolated(u, series) {
	const values = u.data[series];
	return values.flatMap((v, i) =>
		v !== null && (values[i - 1] ?? null) === null && (values[i + 1] ?? null) === null
			? [i] : []);
}

const DASHES = [[], [6, 3], [2, 3], [8, 3, 2, 3]];

// One figure: caption, plot, and a sentence for those who do not see the plot.
class Chart {
	// kinds: {name: {name in the menu, series: [[key, title], ...]}}; more than one makes a menu.
	// format: of a value; log: logarithmic.  marks(): [{time, color}, ...], lines across the plot.
	constructor(parent, title, kinds, options) {
		this.kinds = kinds;
		this.options = options;
		this.kind = Object.keys(kinds)[0];
		this.figure = document.createElement("figure");
		const caption = document.createElement("figcaption");
		const heading = document.createElement("span");
		heading.textContent = title;
		caption.append(heading);
		if (Object.keys(kinds).length > 1) {
			caption.append(this.menu(title));
		}
		this.summary = document.createElement("p");
		this.summary.className = "hidden";
		this.plot = document.createElement("div");
		this.plot.className = "plot";
		this.figure.append(caption, this.summary, this.plot);
		this.title = title;
		this.data = null;
		parent.append(this.figure);
		this.build();
		new ResizeObserver(() => this.resize()).observe(this.plot);
	}

	menu(title) {
		const select = document.createElement("select");
		select.setAttribute("aria-label", title + " of");
		for (const [kind, {name}] of Object.entries(this.kinds)) {
			select.add(new Option(name, kind));
		}
		select.addEventListener("change", () => {
			this.kind = select.value;
			this.build();
		});
		return select;
	}

	get series() {
		return this.kinds[this.kind].series;
	}

	build() {
		this.u?.destroy();
		const {format: show, log} = this.options;
		const axis = {
			stroke: color("--soft"),
			grid: {stroke: color("--grid"), width: 1},
			ticks: {stroke: color("--grid"), width: 1},
			font: "12px system-ui, sans-serif",
		};
		this.u = new uPlot({
			width: this.width(),
			height: 190,
			cursor: {y: false, points: {size: 6}},
			scales: {
				x: {time: true, range: () => this.window ?? [0, 1]},
				y: log
					? {distr: 3, range: (u, min, max) => min === null || max === null
						? [1e-5, 1]
						: uPlot.rangeLog(min, Math.max(max, min * 10), 10, true)}
					: {range: (u, min, max) => [0, max > 0 ? max * 1.08 : 1]},
			},
			axes: [
				{...axis, space: 70, values: (u, splits) => splits.map((t) =>
					new Date(t * 1000).toLocaleTimeString([], {hour: "2-digit",
						minute: "2-digit", hour12: false}))},
				{...axis, size: 58, values: (u, splits) =>
					splits.map((v) => v === null ? "" : show(v))},
			],
			series: [
				{label: "time", value: (u, t) => Number.isFinite(t) ? format.time(t) : "–"},
				...this.series.map(([, label], i) => ({
					label,
					stroke: color("--c" + (i + 1)),
					width: 1.5,
					dash: DASHES[i],
					points: {show: false, size: 5, filter: isolated},
					spanGaps: false,
					value: (u, v) => show(v),
				})),
			],
			hooks: {draw: [(u) => this.drawMarks(u)]},
		}, null, this.plot);
		this.u.root.querySelector("canvas").setAttribute("role", "img");
		this.draw(this.data, this.window);
	}

	width() {
		return Math.max(this.plot.clientWidth, 200);
	}

	resize() {
		if (this.u.width !== this.width()) {
			this.u.setSize({width: this.width(), height: 190});
		}
	}

	drawMarks(u) {
		const {ctx, bbox} = u;
		ctx.save();
		for (const {time, tone} of this.options.marks()) {
			const x = Math.round(u.valToPos(time, "x", true)) + 0.5;
			if (x >= bbox.left && x <= bbox.left + bbox.width) {
				ctx.strokeStyle = color("--" + tone);
				ctx.setLineDash([3, 3]);
				ctx.beginPath();
				ctx.moveTo(x, bbox.top);
				ctx.lineTo(x, bbox.top + bbox.height);
				ctx.stroke();
			}
		}
		ctx.restore();
	}

	// history: a History; window: [from, to] in Unix time.
	draw(history, window) {
		this.data = history;
		this.window = window;
		if (history === null) {
			return;
		}
		const data = history.columns(this.series.map(([key]) => key));
		if (this.options.log) { // a logarithm has no place for 0
			for (let i = 1; i < data.length; i++) {
				data[i] = data[i].map((v) => v === null ? null : Math.max(v, 1e-8));
			}
		}
		this.u.setData(data);
		if (this.u.cursor.left < 0) { // nobody points at anything: the legend has the latest
			this.u.setLegend({idx: data[0].length - 1}, false);
		}
		const now = this.series.map(([, label], i) =>
			label + " " + this.options.format(data[i + 1].at(-1)));
		const sentence = this.title + ", latest: " + now.join(", ");
		setText(this.summary, sentence);
		this.u.root.querySelector("canvas").setAttribute("aria-label", sentence);
	}
}
