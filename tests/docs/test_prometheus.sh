#!/bin/bash
# SPDX-License-Identifier: MIT
#
# test_prometheus.sh - the alert rules are rules and fire when they should, the Grafana dashboard is
# whole, and both speak of metrics that exist.
set -u
cd "${SOURCE_ROOT:?}" || exit 1
# shellcheck source=tests/integration/lib/fixture.sh
. tests/integration/lib/fixture.sh
rules=docs/prometheus-alerts.yml
dashboard=docs/grafana-dashboard.json
skip() {
	tap_count=$((tap_count + 1))
	echo "ok $tap_count # SKIP $1"
}

scratch=$(mktemp -d "${TEST_TMPDIR:-/tmp}/prometheus.XXXXXX")
trap 'rm -rf "$scratch"' EXIT
cp $rules "$scratch/alerts.yml"
cp tests/docs/prometheus_alerts.yml "$scratch"

if command -v promtool >/dev/null; then
	promtool check rules $rules >"$scratch/out" 2>&1
	tap_line $? "promtool accepts the rules"
	sed 's/^/# /' "$scratch/out"
	promtool test rules "$scratch/prometheus_alerts.yml" >"$scratch/out" 2>&1
	tap_line $? "the rules fire when they should, and only then"
	sed 's/^/# /' "$scratch/out"
else
	skip "no promtool here"
fi

# Names used, with the suffixes of histograms taken off, against those that the tables define.
python3 - $rules $dashboard "$scratch/queries.yml" shm/metrics.def tools/exporter.def >"$scratch/names" <<'END'
import json, re, sys

rules, dashboard, queries, *tables = sys.argv[1:]
known = set()
for table in tables:
    text = open(table, encoding="utf-8").read()
    known |= set(re.findall(r'"(broker_[a-z_]+)"', text))
    for name in re.findall(r'POOL_HISTOGRAM\(\w+, "(\w+)"', text):
        known |= {name + suffix for suffix in ("_bucket", "_sum", "_count")}

def expressions(node):
    if isinstance(node, dict):
        for key, value in node.items():
            if key in ("expr", "query", "definition") and isinstance(value, str):
                yield value
            else:
                yield from expressions(value)
    elif isinstance(node, list):
        for value in node:
            yield from expressions(value)

panels = json.load(open(dashboard, encoding="utf-8"))
used = {"rules": open(rules, encoding="utf-8").read(),
        "dashboard": "\n".join(expressions(panels))}
for where, text in used.items():
    names = set(re.findall(r"\bbroker_[a-z_]+\b", text))
    print(where, len(names), *sorted(names - known))

# The panels' queries as rules, for promtool to parse.
values = {"$__rate_interval": "5m", "$instance": ".*", "$pool": ".*"}
with open(queries, "w", encoding="utf-8") as f:
    f.write("groups:\n  - name: dashboard\n    rules:\n")
    for i, target in enumerate(t for p in panels["panels"] for t in p.get("targets", [])):
        expr = target["expr"]
        for variable, value in values.items():
            expr = expr.replace(variable, value)
        f.write("      - {record: query_%d, expr: %s}\n" % (i, json.dumps(expr)))

real = [p for p in panels["panels"] if p["type"] != "row"]
print("panels", len(real), *[p["title"] for p in real
      if not p["targets"] or not p["description"] or p["datasource"]["uid"] != "${datasource}"])
ids = [p["id"] for p in panels["panels"]]
cells = [(x, y) for p in panels["panels"] for g in [p["gridPos"]]
         for x in range(g["x"], g["x"] + g["w"]) for y in range(g["y"], g["y"] + g["h"])]
print("layout", len(ids), *(["ids"] if len(set(ids)) != len(ids) else []),
      *(["overlap"] if len(set(cells)) != len(cells) else []),
      *(["width"] if max(x for x, _ in cells) > 23 else []))
alerts = used["rules"].count("- alert:")
print("texts", alerts, *["missing" for word in ("summary:", "description:", "severity:")
                        if used["rules"].count(word) != alerts])
END
tap_line $? "both files can be read"
if command -v promtool >/dev/null; then
	promtool check rules "$scratch/queries.yml" >"$scratch/out" 2>&1
	tap_line $? "the dashboard's queries can be parsed"
	sed 's/^/# /' "$scratch/out"
else
	skip "no promtool here"
fi
while read -r what count bad; do
	[ "$count" -gt 0 ] && [ -z "$bad" ]
	tap_line $? "$what: $count looked at, nothing wrong${bad:+, but: $bad}"
done <"$scratch/names"
done_testing
