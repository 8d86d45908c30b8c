use serde_json::{Value as Json, json};

use super::*;
use crate::model::json::parse_timestamp;

fn event() -> Json {
    json!({
        "occurred": "2026-01-05T10:11:11.500000Z", "received": "2026-01-05T10:11:12Z", "event": "prefect.flow-run.Failed",
        "id": "77777777-7777-4777-8777-777777777777", "follows": null,
        "resource": {
            "prefect.resource.id": "prefect.flow-run.66666666-6666-4666-8666-666666666666", "prefect.resource.name": "sad-fox",
            "prefect.state-message": "it's <broken>"
        },
        "related": [
            {"prefect.resource.id": "prefect.flow.8", "prefect.resource.role": "flow", "prefect.resource.name": "my-flow"},
            {"prefect.resource.id": "prefect.tag.x", "prefect.resource.role": "tag"},
            {"prefect.resource.id": "prefect.tag.y", "prefect.resource.role": "tag"}
        ],
        "payload": {
            "n": 1, "f": 1.5, "g": 2.0, "tiny": 1e-7, "none": null, "yes": true, "s": "text's \"quote\"",
            "list": [1, "two", null, {"k": "v"}], "nested": {"b": 1, "a": "<&>"}, "when": "2026-02-03T04:05:06Z",
            "body": "see flow-run/66666666-6666-4666-8666-666666666666 now"
        }
    })
}

fn context() -> Context {
    let mut context = Context::new("http://ui.example", parse_timestamp("2026-11-24T00:00:00Z").expect("a moment"));
    context.add("event", "event", &event());
    context.add("automation", "automation", &json!({"id": "1", "name": "my auto", "enabled": true, "tags": ["a", "b"]}));
    context.add_labels(
        "labels",
        &IndexMap::from_iter([("prefect.resource.id".to_owned(), "prefect.flow-run.6".to_owned()), ("team".to_owned(), "blue".to_owned())]),
    );
    context.add("flow", "flow", &json!({"id": "8", "name": "my-flow"}));
    context.add("work_pool", "work-pool", &json!({"id": "9", "name": "pool", "status": "READY"}));
    context.add(
        "flow_run",
        "flow-run",
        &json!({
            "id": "6", "name": "sad-fox", "start_time": "2026-01-05T10:00:01Z", "total_run_time": 670.5, "deployment_id": null,
            "parameters": {"when": "2026-02-03T04:05:06Z"}, "tags": ["p"],
            "state": {"type": "FAILED", "name": "Failed", "timestamp": "2026-01-05T10:11:11.5Z"}
        }),
    );
    context.add_plain("variables", &json!({"color": "red", "limits": {"max": 3}}));
    context
}

/// What the reference renders of the same values; see the differences in the head of the module.
const RENDERED: &[(&str, &str)] = &[
    ("plain text", "plain text"),
    ("{{ event.event }} {{ event.follows }}", "prefect.flow-run.Failed None"),
    ("{{ event.occurred }} {{ event.received }}", "2026-01-05 10:11:11.500000+00:00 2026-01-05 10:11:12+00:00"),
    ("{{ event.occurred.isoformat() }}", "2026-01-05T10:11:11.500000+00:00"),
    ("{{ event.occurred.strftime('%Y-%m-%d %H:%M:%S.%f %Z %A %j') }}", "2026-01-05 10:11:11.500000 UTC Monday 005"),
    ("{{ event.occurred.year }}-{{ event.occurred.month }} {{ event.occurred.timestamp() }}", "2026-1 1767607871.5"),
    ("{{ event.occurred.date() }} {{ event.occurred.time() }}", "2026-01-05 10:11:11.500000"),
    ("{{ event.occurred.weekday() }} {{ event.occurred.ctime() }}", "0 Mon Jan  5 10:11:11 2026"),
    ("{{ event.occurred > event.received }} {{ event.occurred < event.received }}", "False True"),
    ("{{ event.occurred.replace(microsecond=0) }}", "2026-01-05 10:11:11+00:00"),
    ("{{ event.occurred.in_timezone('Europe/Berlin') }}", "2026-01-05 11:11:11.500000+01:00"),
    ("{{ event.occurred.add(days=1) }}", "2026-01-06 10:11:11.500000+00:00"),
    ("{{ event.occurred.to_iso8601_string() }}", "2026-01-05T10:11:11.500000Z"),
    ("{{ event.resource.id }}", "prefect.flow-run.66666666-6666-4666-8666-666666666666"),
    ("{{ event.resource.name }} {{ event.resource['prefect.state-message'] }}", "sad-fox it's <broken>"),
    ("{{ event.resource.get('nope') }} {{ event.resource.get('nope', 'dflt') }}", "None dflt"),
    ("{{ event.resource.labels.prefect.resource.name }}", "sad-fox"),
    ("{% for k, v in event.resource.items() %}{{k}};{% endfor %}", "prefect.resource.id;prefect.resource.name;prefect.state-message;"),
    ("{{ event.resource.keys()|list }}", "['prefect.resource.id', 'prefect.resource.name', 'prefect.state-message']"),
    ("{{ 'prefect.resource.id' in event.resource }}", "True"),
    ("{% for r in event.related %}{{ r.role }}:{{ r.name }} {% endfor %}", "flow:my-flow tag:None tag:None "),
    ("{{ event.resource_in_role['flow'].name }} {{ event.resource_in_role.flow.id }}", "my-flow prefect.flow.8"),
    ("{{ event.resources_in_role['tag']|map(attribute='id')|join(',') }}", "prefect.tag.x,prefect.tag.y"),
    ("{{ event.find_resource_label('related:flow:prefect.resource.name') }}", "my-flow"),
    ("{{ event.involved_resources|length }} {{ event.related|length }}", "4 3"),
    ("{{ event.payload.f }} {{ event.payload.g }} {{ event.payload.tiny }} {{ event.payload.yes }}", "1.5 2.0 1e-07 True"),
    ("{{ event.payload.list }} {{ event.payload.list[-1].k }}", "[1, 'two', None, {'k': 'v'}] v"),
    ("{{ event.payload.list[:2] }}", "[1, 'two']"),
    ("{{ event.payload.nested|tojson }}", r#"{"a": "\u003c\u0026\u003e", "b": 1}"#),
    ("{{ event.payload.list|tojson(indent=2) }}", "[\n  1,\n  \"two\",\n  null,\n  {\n    \"k\": \"v\"\n  }\n]"),
    ("{{ event.payload.missing.deep.er }}|{{ event.nope.deeper }}|", "||"),
    ("{{ event.payload.missing is defined }} {{ event.payload.when }}", "False 2026-02-03T04:05:06Z"),
    ("{{ event.payload.get('n', 0) + 1 }} {{ event.payload.nested.keys()|list }}", "2 ['b', 'a']"),
    (
        "{{ labels }}|{{ labels.team }} {{ labels.prefect.resource.id }} {{ labels['team'] }}|{{ labels.missing }}|",
        "|blue prefect.flow-run.6 blue||",
    ),
    ("{% for k, v in labels %}{{k}}={{v}};{% endfor %}", "prefect.resource.id=prefect.flow-run.6;team=blue;"),
    ("{{ automation.name }} {{ automation.enabled }} {{ automation.tags }}", "my auto True ['a', 'b']"),
    ("{{ automation|ui_url }}", "http://ui.example/automations/automation/1"),
    ("{{ automation|ui_resource_events_url }}", "http://ui.example/events?resource=prefect.automation.1"),
    ("{{ event|ui_url }}", "http://ui.example/events/event/2026-01-05/77777777-7777-4777-8777-777777777777"),
    ("{{ event.url }}", "http://ui.example/events/event/2026-01-05/77777777-7777-4777-8777-777777777777"),
    ("{{ flow_run|ui_url }} {{ flow|ui_url }}", "http://ui.example/runs/flow-run/6 http://ui.example/flows/flow/8"),
    ("{{ work_pool|ui_url }} {{ 'x'|ui_url }}", "http://ui.example/work-pools/work-pool/pool None"),
    ("{{ event.related[0]|ui_resource_events_url }}", "http://ui.example/events?resource=prefect.flow.8"),
    ("{{ flow_run.name }} {{ flow_run.state.name }} {{ flow_run.state.type.value }}", "sad-fox Failed FAILED"),
    ("{% if flow_run.state.type == 'FAILED' %}eq{% else %}ne{% endif %}", "eq"),
    ("{{ flow_run.state.timestamp }} {{ flow_run.start_time }}", "2026-01-05 10:11:11.500000+00:00 2026-01-05 10:00:01+00:00"),
    ("{{ flow_run.total_run_time }} {{ flow_run.total_run_time.total_seconds() }}", "0:11:10.500000 670.5"),
    ("{{ flow_run.parameters }} {{ flow_run.deployment_id }}", "{'when': '2026-02-03T04:05:06Z'} None"),
    ("{{ variables.color }} {{ variables.limits.max }} {{ variables['color'] }} {{ variables.nope }}|", "red 3 red |"),
    ("{{ event.payload.body|flow_run_id }} {{ 'none'|flow_run_id }}", "66666666-6666-4666-8666-666666666666 None"),
    (
        "{{ 'abc'.upper() }} {{ 'a b'.title() }} {{ '  x '.strip() }} {{ 'a,b'.split(',') }} {{ 'abc'.replace('b','x') }} {{ 'abc'.startswith('a') }}",
        "ABC A B x ['a', 'b'] axc True",
    ),
    (
        "{{ 'x'.center(5, '*') }} {{ 'x'.ljust(3) }}| {{ '7'.zfill(3) }} {{ 'a.b.c'.rsplit('.', 1) }} {{ 'a.b'.partition('.') }} {{ 'abc'.removeprefix('a') }}",
        "**x** x  | 007 ['a.b', 'c'] ('a', '.', 'b') bc",
    ),
    ("{{ 'x{}y'.format(3) }} {{ 'aB'.swapcase() }} {{ '1'.isdigit() }}", "x3y Ab True"),
    ("{{ '%.2f'|format(3.14159) }} {{ none }} {{ true }} {{ 7 // 2 }} {{ 7 / 2 }} {{ 2 ** 3 }} {{ 10 / 2 }}", "3.14 None True 3 3.5 8 5.0"),
    (
        "{{ [1, 'a', none, true, 1.5] }} {{ {'a': 1, 'b': [none]} }} {{ (1, 'x') }} {{ (1,) }}",
        "[1, 'a', None, True, 1.5] {'a': 1, 'b': [None]} (1, 'x') (1,)",
    ),
    ("{{ [\"it's\", 'say \"hi\"', 'ü'] }}", "[\"it's\", 'say \"hi\"', 'ü']"),
    ("{% for i in range(3) %}{{ loop.index }}{{ i }}{% if not loop.last %},{% endif %}{% endfor %}", "10,21,32"),
    ("{% set x = 5 %}{{ x * 2 }}{% macro m(a) %}<{{ a }}>{% endmacro %}{{ m(1) }}", "10<1>"),
    ("{{ event.event.split('.')[-1] }} {{ event.event.split('.')|last|upper }}", "Failed FAILED"),
    ("{{ 'a'|default('b') }} {{ nothing|default('b') }} {{ ''|default('b', true) }}", "a b b"),
    (
        "{{ [3,1,2]|sort }} {{ [1,2,3]|sum }} {{ {'b':1,'a':2}|dictsort }} {{ [1,2,3,4]|batch(2)|list }} {{ [1,1,2]|unique|list }}",
        "[1, 2, 3] 6 [('a', 2), ('b', 1)] [[1, 2], [3, 4]] [1, 2]",
    ),
    ("{{ 'hello world foo'|truncate(9) }} {{ 'a b c'|wordcount }} {{ 'x'|center(5) }}| {{ '<b>x</b>'|striptags }}", "hello... 3   x  | x"),
    ("{{ 'a b'|urlencode }} {{ 1000000|filesizeformat }} {{ 'hello world'|wordwrap(5) }}", "a%20b 1.0 MB hello\nworld"),
    (
        "{{ 12345678|humanize_intcomma }} {{ 1234.5|humanize_intcomma }} {{ 1200000|humanize_intword }} {{ 3|humanize_ordinal }} {{ 5|humanize_apnumber }}",
        "12,345,678 1,234.5 1.2 million 3rd five",
    ),
    ("{{ 123456|humanize_naturalsize }} {{ 123456|humanize_naturalsize(binary=true) }}", "123.5 kB 120.6 KiB"),
    (
        "{{ flow_run.total_run_time|humanize_naturaldelta }}, {{ flow_run.total_run_time|humanize_precisedelta }}",
        "11 minutes, 11 minutes and 10.50 seconds",
    ),
    (
        "{{ 3600|humanize_naturaldelta }} {{ 90000|humanize_naturaldelta }} {{ 40000000|humanize_naturaldelta }} {{ 3000000|humanize_naturaldelta }}",
        "an hour a day 1 year, 3 months a month",
    ),
    (
        "{{ 90061|humanize_precisedelta }} {{ 45|humanize_naturaltime }} {{ 7200|humanize_naturaltime }}",
        "1 day, 1 hour, 1 minute and 1 second 45 seconds ago 2 hours ago",
    ),
    ("{{ event.occurred|humanize_naturalday }} {{ event.occurred|humanize_naturaldate }}", "Jan 05 Jan 05 2026"),
    ("{# gone #}x{% raw %}{{ raw }}{% endraw %}", "x{{ raw }}"),
    ("line\n{% if true %}\nx\n{% endif %}\n", "line\n\nx\n"),
    ("{{ 'a<b'|tojson }} {{ none|tojson }} {{ 1.0|tojson }} {{ 'ü'|tojson }}", r#""a\u003cb" null 1.0 "\u00fc""#),
    ("{{ event.related[1]|tojson }}", r#"{"prefect.resource.id": "prefect.tag.x", "prefect.resource.role": "tag"}"#),
    ("{{ event.occurred|string }} {{ ''.__class__ }}|{{ event.model_dump()|length }}", "2026-01-05 10:11:11.500000+00:00 |8"),
];

#[test]
fn templates_render_as_the_reference_renders_them() {
    let context = context();
    let mut wrong = Vec::new();
    for (template, expected) in RENDERED {
        let rendered = render(template, &context);
        if rendered.as_deref() != Ok(*expected) {
            wrong.push(format!("{template}\n    ours {rendered:?}\n    reference {expected:?}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), RENDERED.len(), wrong.join("\n"));
}

#[test]
fn what_goes_on_too_long_or_grows_too_large_fails() {
    let context = context();
    let nested =
        "{% for a in range(100) %}{% for b in range(100) %}".to_owned() + &"{{ a }}{{ b }}".repeat(100) + "{% endfor %}{% endfor %}";
    for template in [
        "{% for i in range(101) %}{{ i }}{% endfor %}",
        "{{ 'x' * 1000000000 }}",
        "{% set n = namespace(x='xxxxxxxxxx') %}{% for i in range(100) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
        "{{ 'x'.ljust(1000000000).ljust(1000000000) * 1000 }}",
        "{% macro m(x) %}{{ m(x) }}{% endmacro %}{{ m(1) }}",
        "{{ 1 / 0 }}",
        "{{ nothing() }}",
        "{{ 'x' + 1 }}",
        "{% include 'x' %}",
        &nested,
    ] {
        let failed = render(template, &context).expect_err(template);
        assert_eq!(failed.template, template);
        assert!(!failed.error.is_empty());
    }
}

#[test]
fn the_names_that_templates_read_are_told() {
    let read = names(["{{ flow_run.name }}{% for x in events %}{{ x }}{{ flow }}{% endfor %}", "{{ variables.a }}", "{{"]);
    assert_eq!(read, ["events", "flow", "flow_run", "variables"]);
}
