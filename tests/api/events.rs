//! Queries of events: pages, and counts by span of time, name and resource.

use std::time::Duration;

use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::{Cluster, Kind, eventually, node_that_keeps_events};

/// Publishes events and waits until all can be read.
async fn publish(cluster: &Cluster, events: &[Value]) {
    let (status, answer) = cluster.http(1).post("/events", &json!(events)).await.expect("it answers");
    assert_eq!(status, 204, "{answer}");
    // The server makes events of its own at its start.
    let all = json!({"filter": {"occurred": {"since": "2024-01-01T00:00:00Z"}, "event": {"prefix": ["a."]}}, "limit": 1});
    eventually(Duration::from_secs(20), "all events can be read", async || {
        let (_, page) = cluster.http(1).post("/events/filter", &all).await.expect("it answers");
        page["total"] == events.len()
    })
    .await;
}

fn event(occurred: &str, name: &str, resource: &str, resource_name: Option<&str>) -> Value {
    let mut labels = json!({"prefect.resource.id": resource});
    if let Some(name) = resource_name {
        labels["prefect.resource.name"] = name.into();
    }
    json!({"occurred": occurred, "event": name, "id": Uuid::new_v4(), "resource": labels, "related": [], "payload": {}})
}

async fn events_are_counted_by_span_name_and_resource(kind: Kind) {
    let cluster = node_that_keeps_events(kind).await;
    let events = [
        event("2026-01-05T00:00:00Z", "a.one", "r.1", Some("old name")),
        event("2026-01-05T23:59:59.999999Z", "a.one", "r.1", Some("new name")),
        event("2026-01-07T12:00:00Z", "a.two", "r.1", Some("new name")),
        event("2026-01-07T12:00:00.6Z", "a.two", "r.2", None),
        event("2026-02-01T00:00:00Z", "a.two", "r.3", None),
    ];
    publish(&cluster, &events).await;
    let january = json!({"occurred": {"since": "2026-01-05T00:00:00Z", "until": "2026-01-08T00:00:00Z"}});
    let count = async |countable: &str, unit: &str, interval: f64, filter: &Value| {
        let body = json!({"filter": filter, "time_unit": unit, "time_interval": interval});
        cluster.http(1).post(&format!("/events/count-by/{countable}"), &body).await.expect("it answers")
    };
    let counts = |answer: &Value| -> Vec<(String, i64)> {
        let lines = answer.as_array().expect("lines");
        lines.iter().map(|line| (line["label"].as_str().expect("a label").to_owned(), line["count"].as_i64().expect("a count"))).collect()
    };
    let named = |pairs: &[(&str, i64)]| -> Vec<(String, i64)> { pairs.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect() };

    let days = named(&[("2026-01-05T00:00:00+00:00", 2), ("2026-01-06T00:00:00+00:00", 0), ("2026-01-07T00:00:00+00:00", 2)]);
    for countable in ["day", "time"] {
        let (status, answer) = count(countable, "day", 1.0, &january).await;
        assert_eq!((status, counts(&answer)), (200, days.clone()), "{countable}");
        assert_eq!(
            answer[0],
            json!({"value": "0", "label": "2026-01-05T00:00:00+00:00", "count": 2,
                "start_time": "2026-01-05T00:00:00Z", "end_time": "2026-01-05T23:59:59.999999Z"})
        );
    }
    let (_, weeks) = count("time", "week", 1.0, &january).await;
    assert_eq!(counts(&weeks), named(&[("2026-01-05T00:00:00+00:00", 4)]), "weeks begin with Monday");
    let noon = json!({"occurred": {"since": "2026-01-07T12:00:00Z", "until": "2026-01-07T12:00:01Z"}});
    let (_, halves) = count("time", "second", 0.5, &noon).await;
    assert_eq!(counts(&halves), named(&[("2026-01-07T12:00:00+00:00", 1), ("2026-01-07T12:00:00.500000+00:00", 1)]));
    for unit in ["hour", "minute"] {
        let (status, lines) = count("time", unit, 1.0, &noon).await;
        assert_eq!((status, counts(&lines)), (200, named(&[("2026-01-07T12:00:00+00:00", 2)])), "{unit}");
    }

    let (_, by_name) = count("event", "day", 1.0, &january).await;
    assert_eq!(counts(&by_name), named(&[("a.one", 2), ("a.two", 2)]));
    let (_, by_resource) = count("resource", "day", 1.0, &january).await;
    assert_eq!(counts(&by_resource), named(&[("new name", 3), ("r.2", 1)]), "the newest label, the most frequent first");
    assert_eq!(by_resource[0]["value"], "r.1");
    assert_eq!(by_resource[0]["start_time"], "2026-01-05T00:00:00Z");
    assert_eq!(by_resource[0]["end_time"], "2026-01-07T12:00:00Z");

    let (status, refused) = count("time", "second", 1.0, &january).await;
    assert_eq!(status, 422);
    assert!(refused["detail"].as_str().is_some_and(|detail| detail.contains("259200 buckets")), "{refused}");
    let (status, refused) = count("time", "day", 0.001, &january).await;
    assert_eq!((status, &refused["exception_detail"][0]["type"]), (422, &json!("greater_than_equal")));
    let (status, refused) = count("colour", "day", 1.0, &january).await;
    assert_eq!((status, &refused["exception_detail"][0]["loc"]), (422, &json!(["path", "countable"])));
}

#[tokio::test]
async fn events_are_counted_on_sqlite() {
    events_are_counted_by_span_name_and_resource(Kind::Sqlite).await;
}

#[tokio::test]
async fn events_are_counted_on_postgres() {
    events_are_counted_by_span_name_and_resource(Kind::Postgres).await;
}

async fn pages_follow_their_links_to_the_end(kind: Kind) {
    let cluster = node_that_keeps_events(kind).await;
    let events: Vec<Value> =
        (0..120).map(|number| event(&format!("2026-01-05T00:{:02}:{:02}Z", number / 60, number % 60), "a.one", "r.1", None)).collect();
    publish(&cluster, &events).await;
    for (order, first) in [("ASC", 0_usize), ("DESC", 119)] {
        let filter = json!({"occurred": {"since": "2026-01-05T00:00:00Z", "until": "2026-01-06T00:00:00Z"}, "order": order});
        let (mut status, mut page) = cluster.http(1).post("/events/filter", &json!({"filter": filter})).await.expect("it answers");
        let mut ids = Vec::new();
        let mut sizes = Vec::new();
        loop {
            assert_eq!((status, &page["total"]), (200, &json!(120)));
            let found: Vec<Value> = page["events"].as_array().expect("events").iter().map(|event| event["id"].clone()).collect();
            sizes.push(found.len());
            ids.extend(found);
            let Some(next) = page["next_page"].as_str() else { break };
            let path = next.strip_prefix(&cluster.api(1)).expect("a link to this API");
            (status, page) = cluster.http(1).get(path).await.expect("it answers");
        }
        assert_eq!(sizes, [50, 50, 20], "{order}");
        let mut expected: Vec<Value> = events.iter().map(|event| event["id"].clone()).collect();
        if first != 0 {
            expected.reverse();
        }
        assert_eq!(ids, expected, "{order}");
    }
    let (status, _) = cluster.http(1).get("/events/filter/next?page-token=bm9uc2Vuc2U=").await.expect("it answers");
    assert_eq!(status, 403);
}

#[tokio::test]
async fn pages_follow_their_links_on_sqlite() {
    pages_follow_their_links_to_the_end(Kind::Sqlite).await;
}

#[tokio::test]
async fn pages_follow_their_links_on_postgres() {
    pages_follow_their_links_to_the_end(Kind::Postgres).await;
}
