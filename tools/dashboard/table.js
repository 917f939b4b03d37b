// SPDX-License-Identifier: MIT
// table.js - a table that is filled again and again: rows keep their identity, so what a reader has
// opened or focused stays.  All texts go in as text.
"use strict";

class Table {
	// columns: {title, value(row), text(row), kind, tone(row)}; text defaults to the value.  kind:
	// "num", "time", "text" may be broken, "wide" takes what room there is, "code" is wide and
	// opens.  key(row): what a row is.  sort: [column, descending], or null:
	// in the order given.
	constructor(id, columns, key, empty, sort = null) {
		this.columns = columns;
		this.key = key;
		this.sort = sort;
		this.rows = new Map();
		this.data = [];
		const table = document.getElementById(id);
		const head = table.createTHead().insertRow();
		this.heads = columns.map((column, i) => {
			const th = document.createElement("th");
			const button = document.createElement("button");
			th.scope = "col";
			this.classify(th, column);
			button.type = "button";
			button.textContent = column.title;
			button.addEventListener("click", () => this.sortBy(i));
			th.append(button);
			head.append(th);
			return th;
		});
		this.body = table.createTBody();
		this.nothing = document.createElement("tr");
		this.nothing.className = "empty";
		const td = this.nothing.insertCell();
		td.colSpan = columns.length;
		td.textContent = empty;
		this.fill([]);
	}

	classify(cell, {kind}) {
		cell.classList.toggle("num", kind === "num");
		cell.classList.toggle("text", kind === "text");
		cell.classList.toggle("wide", kind === "wide" || kind === "code");
	}

	// Numbers and times begin with the greatest.
	sortBy(i) {
		const first = ["num", "time"].includes(this.columns[i].kind);
		const again = this.sort !== null && this.sort[0] === i;
		this.sort = [i, again ? !this.sort[1] : first];
		this.fill(this.data);
	}

	ordered(data) {
		this.heads.forEach((th, i) => {
			if (this.sort !== null && this.sort[0] === i) {
				th.setAttribute("aria-sort", this.sort[1] ? "descending" : "ascending");
			} else {
				th.removeAttribute("aria-sort");
			}
		});
		if (this.sort === null) {
			return data;
		}
		const value = this.columns[this.sort[0]].value;
		const sign = this.sort[1] ? -1 : 1;
		return [...data].sort((a, b) => {
			const x = value(a) ?? -Infinity;
			const y = value(b) ?? -Infinity;
			return sign * (typeof x === "string" || typeof y === "string"
				? String(x).localeCompare(String(y), undefined, {numeric: true})
				: x - y);
		});
	}

	fill(data) {
		const seen = new Set();
		this.data = data;
		this.nothing.remove();
		this.ordered(data).forEach((row, i) => {
			const key = this.key(row);
			let tr = this.rows.get(key);
			if (tr === undefined) {
				tr = this.create();
				this.rows.set(key, tr);
			}
			seen.add(key);
			this.update(tr, row);
			if (this.body.rows[i] !== tr) {
				this.body.insertBefore(tr, this.body.rows[i] ?? null);
			}
		});
		for (const [key, tr] of this.rows) {
			if (!seen.has(key)) {
				tr.remove();
				this.rows.delete(key);
			}
		}
		if (data.length === 0) {
			this.body.append(this.nothing);
		}
	}

	create() {
		const tr = document.createElement("tr");
		for (const column of this.columns) {
			const td = tr.insertCell();
			this.classify(td, column);
			if (column.kind === "code") {
				const details = document.createElement("details");
				details.append(document.createElement("summary"),
					document.createElement("pre"));
				td.append(details);
			}
		}
		return tr;
	}

	update(tr, row) {
		this.columns.forEach((column, i) => {
			const td = tr.cells[i];
			const value = (column.text ?? column.value)(row);
			const text = value === null || value === undefined ? "" : String(value);
			if (column.kind === "code") {
				setText(td.querySelector("summary"), text.replace(/\s+/g, " ").slice(0, 300));
				setText(td.querySelector("pre"), text);
			} else {
				setText(td, text);
			}
			for (const tone of ["good", "warn", "bad", "soft"]) {
				td.classList.toggle(tone, column.tone !== undefined && column.tone(row) === tone);
			}
		});
	}
}

// Touch the document only where something changed.
function setText(element, text) {
	if (element.textContent !== text) {
		element.textContent = text;
	}
}
