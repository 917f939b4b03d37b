// SPDX-License-Identifier: MIT
// format.js - numbers, durations and times as people read them.
"use strict";

const format = {
	// 950, 12.3k, 4.56M
	number(v) {
		if (v === null || v === undefined || !isFinite(v)) {
			return "–";
		}
		const size = Math.abs(v);
		for (const [unit, letter] of [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]]) {
			if (size >= unit) {
				return Number((v / unit).toPrecision(3)) + letter;
			}
		}
		return String(size < 100 ? Number(v.toPrecision(3)) : Math.round(v));
	},

	bytes(v) {
		return v ? format.number(v) + "B" : "–";
	},

	// 850ns, 12us, 3.4ms, 1.25s, 4m10s, 3h05m, 2d04h
	duration(s) {
		if (s === null || s === undefined || !isFinite(s)) {
			return "–";
		}
		if (s <= 0) {
			return "0";
		}
		const two = (n) => String(n).padStart(2, "0");
		if (s < 0.9995e-6) {
			return Math.round(s * 1e9) + "ns";
		}
		if (s < 0.9995e-3) {
			return Number((s * 1e6).toPrecision(3)) + "µs";
		}
		if (s < 0.9995) {
			return Number((s * 1e3).toPrecision(3)) + "ms";
		}
		if (s < 99.95) {
			return Number(s.toPrecision(3)) + "s";
		}
		const whole = Math.round(s);
		if (whole < 3600) {
			return Math.floor(whole / 60) + "m" + two(whole % 60) + "s";
		}
		if (whole < 86400) {
			return Math.floor(whole / 3600) + "h" + two(Math.floor(whole / 60) % 60) + "m";
		}
		return Math.floor(whole / 86400) + "d" + two(Math.floor(whole / 3600) % 24) + "h";
	},

	// Unix time as local time of day, with the date if it is another day.
	time(unix) {
		const t = new Date(unix * 1000);
		const clock = t.toLocaleTimeString([], {hour12: false});
		return t.toDateString() === new Date().toDateString()
			? clock
			: t.toLocaleDateString() + " " + clock;
	},
};
