#!/usr/bin/env python3
"""Makes the dashboards, one of a page of panels each, which stand below as a title, a unit and queries.

    dashboards.py            writes dashboards/*.json
    dashboards.py --check    says which are not as they would be written

queries.py asks a Prometheus with relays under load all that they ask.
"""

import json
import pathlib
import sys

FOLDER = pathlib.Path(__file__).parent / "dashboards"
# What a panel looks at: the relays that are chosen on top of the page.
CHOSEN = 'namespace=~"$namespace", job=~"$job", relay=~"$relay"'
# What is recorded of whole fleets.
FLEET = 'namespace=~"$namespace", job=~"$job"'


def rate(metric, more="", by=""):
    """So many a second, by labels; `metric` without the prefix."""
    inner = f"rate(remora_relay_{metric}{{{CHOSEN}{', ' + more if more else ''}}}[$__rate_interval])"
    return f"sum by ({by}) ({inner})" if by else f"sum ({inner})"


def gauge(metric, by="relay", how="sum"):
    return f"{how} by ({by}) (remora_relay_{metric}{{{CHOSEN}}})"


def quantiles(metric, by=""):
    """The median and what 19 of 20 stay below, with their legends."""
    labels = f"le, {by}" if by else "le"
    legend = f"{{{{{by}}}}} " if by else ""
    buckets = rate(f"{metric}_bucket", by=labels)
    return [(f"histogram_quantile({q}, {buckets})", f"{legend}{name}") for q, name in ((0.5, "p50"), (0.95, "p95"))]


def recorded(name):
    return f"{name}{{{FLEET}}}"


# Title of a row, then panels: title, unit, [(query, legend)], and what it says where that is not plain.
CONTROL = {
    "Rate": [
        ("Requests", "reqps", [(rate("control_requests_total", by="kind"), "{{kind}}")]),
        ("Handshakes", "ops", [(rate("handshakes_total", by="result"), "{{result}}")]),
        ("Introductions", "ops", [(rate("introductions_total", by="result"), "{{result}}")],
         "Joiners' tries. `admitted` is a session; `dismissed` and `wrong_secret` are answers; the others went wrong."),
        ("Look-ups of codes", "ops", [(rate("locator_lookups_total", by="result"), "{{result}}")]),
    ],
    "Errors": [
        ("Requests refused", "percentunit",
         [(rate("control_requests_total", 'result="refused"') + " / " + rate("control_requests_total"), "refused")]),
        ("Introductions that fail", "percentunit",
         [(recorded("remora:introduction_errors:ratio_rate5m"), "of 5 minutes"), (recorded("remora:introduction_errors:ratio_rate1h"), "of an hour")],
         "The objective: 0.1 %."),
        ("Not let in", "ops", [(rate("admission_denied_total", by="reason"), "{{reason}}")]),
        ("Codes that ended", "ops", [(rate("code_burns_total", by="why"), "{{why}}")], "`burned`: three wrong tries."),
    ],
    "Duration": [
        ("Requests", "s", quantiles("control_request_seconds", "kind")),
        ("Handshakes", "s", quantiles("handshake_seconds")),
        ("Introductions", "s", quantiles("introduction_seconds"), "The objective: half a second, for 19 of 20."),
    ],
    "Who is there": [
        ("Nodes", "short", [(gauge("nodes_connected"), "{{relay}}"), (gauge("nodes_parked"), "{{relay}} parked")]),
        ("Codes that can be joined", "short", [(gauge("locators"), "{{relay}}")]),
        ("Devices", "short", [(gauge("devices"), "{{relay}}")]),
        ("Ready", "bool", [(gauge("ready", how="min"), "{{relay}}")]),
        ("Something is wrong", "bool", [(gauge("warnings", by="relay, what", how="max"), "{{relay}}: {{what}}")], "`/readyz` and `remora admin doctor` say what to do."),
    ],
}

DATAPATH = {
    "Utilisation": [
        ("Busiest worker", "percentunit", [(gauge("worker_busy_ratio", how="max"), "{{relay}}")]),
        ("Processor", "percentunit", [(f"sum by (relay) (rate(process_cpu_seconds_total{{{CHOSEN}}}[$__rate_interval]))", "{{relay}}")],
         "Of one core."),
        ("Memory", "bytes",
         [(f"sum by (relay) (process_resident_memory_bytes{{{CHOSEN}}})", "{{relay}}"), (gauge("memory_limit_bytes"), "{{relay}} may"),
          (gauge("heap_bytes"), "{{relay}} in use")]),
        ("Forwarded", "bps", [(f'8 * {rate("bytes_forwarded_total", by="leg")}', "to a {{leg}}")]),
        ("Frames forwarded", "pps", [(rate("frames_forwarded_total", by="leg"), "to a {{leg}}")]),
        ("Open files", "short", [(f"sum by (relay) (process_open_fds{{{CHOSEN}}})", "{{relay}}"), (f"sum by (relay) (process_max_fds{{{CHOSEN}}})", "{{relay}} may")]),
    ],
    "Saturation": [
        ("Datagrams in one receive", "short", quantiles("batch_frames"), "More where more comes than can be read one by one."),
        ("Unread datagrams lost", "pps", [(rate("socket_receive_drops_total", by="relay"), "{{relay}}")], "The socket's buffer was full."),
        ("Control packets lost", "pps", [(rate("quic_queue_drops_total", by="relay"), "{{relay}}")]),
        ("Sessions held back", "short", [(gauge("rate_limited_sessions"), "{{relay}}")], "They sent faster than a session may."),
        ("Sends of several datagrams as one", "ops", [(rate("gso_runs_total", by="relay"), "{{relay}}")]),
    ],
    "Errors": [
        ("Sessions' frames dropped", "percentunit", [(f"remora:frames_dropped:ratio_rate5m{{{CHOSEN}}}", "{{relay}}")], "More than 0.5 % is an alert."),
        ("Datagrams dropped", "pps", [(rate("frames_dropped_total", by="reason"), "{{reason}}")], "Among them what strangers send to an open port."),
    ],
    "By TCP, where UDP is blocked": [
        ("Streams", "short", [(gauge("streams"), "{{relay}}")]),
        ("Datagrams", "pps", [(rate("stream_datagrams_total", by="direction"), "{{direction}}")]),
        ("Streams that ended", "ops", [(rate("stream_ends_total", by="why"), "{{why}}")]),
    ],
}

SESSIONS = {
    "Now": [
        ("Sessions", "short", [(gauge("sessions", by="path"), "{{path}}")], "A bridged one counts at both of its relays."),
        ("Sessions by relay", "short", [(gauge("sessions"), "{{relay}}")]),
        ("Sessions that ended", "ops", [(rate("session_end_total", by="reason"), "{{reason}}")]),
    ],
    "Objectives": [
        ("Sessions lost, of an hour of each", "percentunit",
         [(recorded(f"remora:sessions_lost:per_session_hour{w}"), f"of {w}") for w in ("5m", "1h")], "The objective: 0.01 %."),
        ("Introductions that take more than half a second", "percentunit",
         [(recorded(f"remora:introduction_slow:ratio_rate{w}"), f"of {w}") for w in ("5m", "1h")], "The objective: 5 %."),
        ("Allowance of a month, used up so many times too fast", "short",
         [(recorded("remora:introduction_errors:ratio_rate1h") + " / 0.001", "introductions fail"),
          (recorded("remora:introduction_slow:ratio_rate1h") + " / 0.05", "introductions are slow"),
          (recorded("remora:sessions_lost:per_session_hour1h") + " / 0.0001", "sessions are lost")], "Alerts at 14.4 and, of six hours, at 6."),
    ],
    "Moves": [
        ("Sessions that came from another relay", "ops", [(rate("sessions_moved_total", by="why, result"), "{{why}} {{result}}")]),
        ("How long nothing was heard", "s", quantiles("session_gap_seconds")),
        ("Draining", "short", [(gauge("drain_state", how="max"), "{{relay}}")], "0 serving, 1 draining, 2 done."),
        ("Sessions still to be moved", "short", [(gauge("drain_remaining"), "{{relay}}")]),
    ],
}

TRAVERSAL = {
    "Direct or not": [
        ("Sessions that go without a relay", "percentunit",
         [(recorded("remora:paths_direct:ratio_rate1h"), "of an hour"), (f"avg (remora_relay_direct_ratio{{{CHOSEN}}} >= 0)", "of the last 256 of each relay")],
         "Of those that may."),
        ("Outcomes", "ops", [(rate("paths_total", by="outcome"), "{{outcome}}")]),
        ("Until it is direct", "s", quantiles("time_to_direct_seconds")),
    ],
    "Afterwards": [
        ("Paths that moved", "ops", [(rate("path_moves_total", by="from, to"), "{{from}} to {{to}}")]),
        ("How long nothing was heard", "s", quantiles("session_gap_seconds")),
    ],
}

MESH = {
    "In touch": [
        ("Others in touch", "short", [(gauge("mesh_peers", how="min"), "{{relay}}")], "The same at all; one less than there are."),
        ("Not heard by UDP", "short", [(gauge("mesh_unheard", how="max"), "{{relay}}")]),
        ("Not let in", "ops", [(rate("mesh_refused_total", by="why"), "{{why}}")]),
        ("Bridged sessions", "short", [(gauge("bridged_sessions"), "{{relay}}")]),
    ],
    "Asked of each other": [
        ("Requests", "ops", [(rate("rpc_total", by="kind, result"), "{{kind}} {{result}}")]),
        ("Until the answer", "s", quantiles("rpc_seconds", "kind")),
        ("Questions to the closest of a code", "ops", [(rate("dht_queries_total", by="kind, result"), "{{kind}} {{result}}")]),
        ("Until they are answered", "s", quantiles("dht_query_seconds", "kind")),
        ("Records kept", "short", [(gauge("dht_records"), "{{relay}} codes"), (gauge("dht_devices"), "{{relay}} devices")]),
    ],
    "Each relay": [
        ("Versions", "short", [(f"count by (version, commit) (remora_relay_build_info{{{CHOSEN}}})", "{{version}} {{commit}}")]),
        ("Clock off", "s", [(f"remora_relay_clock_seconds{{{CHOSEN}}} - timestamp(remora_relay_clock_seconds{{{CHOSEN}}})", "{{relay}}"),
                              (gauge("clock_skew_seconds", how="max"), "{{relay}}: the others' are ahead by")],
         "Against Prometheus' own, and against the other relays'."),
        ("Certificate ends in", "s", [(f"remora_relay_certificate_expiry_seconds{{{CHOSEN}}} - time()", "{{relay}}")],
         "Where it is not the relay's own."),
        ("Settings read again", "ops", [(rate("config_reloads_total", by="result"), "{{result}}")]),
    ],
}

DASHBOARDS = {
    "control": ("Remora: control", "What nodes ask of relays: how often, with what success, how soon.", CONTROL),
    "datapath": ("Remora: datapath", "What relays forward: how near they are to what they can, and what they lose.", DATAPATH),
    "sessions": ("Remora: sessions", "Sessions, what becomes of them, and the objectives of a month.", SESSIONS),
    "traversal": ("Remora: traversal", "How many sessions go without a relay, as nodes report it: counts alone.", TRAVERSAL),
    "mesh": ("Remora: mesh", "The relays of a fleet among themselves.", MESH),
}

DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}


def variable(name, query):
    return {
        "name": name, "label": name.capitalize(), "type": "query", "datasource": DATASOURCE, "definition": query,
        "query": {"query": query, "refId": f"variable-{name}"}, "refresh": 2, "sort": 1, "multi": True, "includeAll": True,
        "allValue": ".*", "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
    }


def panel(number, place, title, unit, queries, says=""):
    return {
        "id": number, "type": "timeseries", "title": title, "description": says, "datasource": DATASOURCE, "gridPos": place,
        "fieldConfig": {"defaults": {"unit": unit, "min": None if title.endswith(("off", "in")) else 0, "custom": {"fillOpacity": 10, "showPoints": "never"}}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi", "sort": "desc"}},
        "targets": [
            {"refId": chr(ord("A") + n), "datasource": DATASOURCE, "expr": query, "legendFormat": legend, "range": True}
            for n, (query, legend) in enumerate(queries)
        ],
    }


def dashboard(name, title, says, rows):
    panels, top, number = [], 0, 0
    for row, of_row in rows.items():
        number += 1
        panels.append({"id": number, "type": "row", "title": row, "collapsed": False, "panels": [], "gridPos": {"x": 0, "y": top, "w": 24, "h": 1}})
        top += 1
        columns = 3 if len(of_row) % 3 == 0 else 2
        for at, what in enumerate(of_row):
            number += 1
            width = 24 // columns
            place = {"x": at % columns * width, "y": top + at // columns * 8, "w": width, "h": 8}
            panels.append(panel(number, place, *what))
        top += -(-len(of_row) // columns) * 8
    return {
        "uid": f"remora-{name}", "title": title, "description": says, "tags": ["remora"], "schemaVersion": 39, "version": 1, "editable": True,
        "time": {"from": "now-6h", "to": "now"}, "refresh": "30s", "timezone": "browser", "graphTooltip": 1, "annotations": {"list": []},
        "links": [{"type": "dashboards", "title": "Remora", "tags": ["remora"], "asDropdown": True, "keepTime": True, "includeVars": True}],
        "templating": {"list": [
            {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus", "current": {}, "hide": 0},
            variable("namespace", "label_values(remora_relay_build_info, namespace)"),
            variable("job", 'label_values(remora_relay_build_info{namespace=~"$namespace"}, job)'),
            variable("relay", f"label_values(remora_relay_build_info{{{FLEET}}}, relay)"),
        ]},
        "panels": panels,
    }


def main():
    wrong = []
    for name, (title, says, rows) in DASHBOARDS.items():
        text = json.dumps(dashboard(name, title, says, rows), indent=1, ensure_ascii=False) + "\n"
        path = FOLDER / f"{name}.json"
        if "--check" not in sys.argv:
            path.write_text(text)
        elif not path.exists() or path.read_text() != text:
            wrong.append(f"{path}: not as {sys.argv[0]} writes it")
    known = {f"{name}.json" for name in DASHBOARDS}
    wrong += [f"{path}: nobody writes it" for path in sorted(FOLDER.iterdir()) if path.name not in known]
    sys.exit("\n".join(wrong) or None)


if __name__ == "__main__":
    main()
