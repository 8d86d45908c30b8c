//! `/automations`, `/templates/validate`, and triggers at work: what fires, once and in order.

use std::time::Duration;

use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::{Cluster, EventsIn, Http, Kind, Options, eventually, one_node, start};

const NOBODY: &str = "00000000-0000-4000-8000-000000000000";

fn reactive(fields: Value) -> Value {
    let mut trigger = json!({"type": "event", "posture": "Reactive"});
    trigger.as_object_mut().expect("an object").extend(fields.as_object().expect("an object").clone());
    trigger
}

fn automation(name: &str, trigger: Value) -> Value {
    json!({"name": name, "trigger": trigger, "actions": [{"type": "do-nothing"}]})
}

async fn made(http: &Http, body: Value) -> Value {
    let (status, created) = http.post("/automations/", &body).await.expect("it answers");
    assert_eq!(status, 201, "{created}");
    created
}

async fn put(cluster: &Cluster, id: &Value, body: &Value) -> (u16, Value) {
    let url = format!("{}/automations/{}", cluster.api(1), id.as_str().expect("an id"));
    let response = reqwest::Client::new().put(url).json(body).send().await.expect("it answers");
    (response.status().as_u16(), response.json().await.unwrap_or(Value::Null))
}

async fn automations_are_made_read_changed_and_deleted(kind: Kind) {
    let cluster = one_node(kind).await;
    let http = cluster.http(1);
    let trigger = json!({
        "type": "compound", "require": "all", "within": 60, "id": NOBODY,
        "triggers": [reactive(json!({"expect": ["a"], "id": NOBODY})), reactive(json!({"expect": ["b"]}))],
    });
    let mut body = automation("first", trigger);
    body["owner_resource"] = json!("prefect.deployment.owner");
    body["tags"] = json!(["one", "two"]);
    body["actions"] = json!([{"type": "run-deployment", "source": "selected", "deployment_id": NOBODY}]);
    let created = made(&http, body.clone()).await;
    assert_ne!(created["trigger"]["id"], NOBODY, "the server gives triggers their ids");
    assert_ne!(created["trigger"]["triggers"][0]["id"], NOBODY);
    assert_eq!(created["trigger"]["triggers"][0]["within"].to_string(), "0.0");
    let path = format!("/automations/{}", created["id"].as_str().expect("an id"));
    assert_eq!(http.get(&path).await.expect("it answers"), (200, created.clone()));

    for resource in ["prefect.deployment.owner".to_owned(), format!("prefect.deployment.{NOBODY}")] {
        let (status, related) = http.get(&format!("/automations/related-to/{resource}")).await.expect("it answers");
        assert_eq!((status, related), (200, json!([created])), "{resource}");
    }
    made(&http, automation("second", reactive(json!({"match": {"prefect.resource.id": "nothing.at-all"}})))).await;
    let names = async |filter: Value| {
        let (status, found) = http.post("/automations/filter", &filter).await.expect("it answers");
        assert_eq!(status, 200, "{found}");
        let names: Vec<String> =
            found.as_array().expect("a list").iter().map(|one| one["name"].as_str().unwrap_or_default().to_owned()).collect();
        names.join(" ")
    };
    assert_eq!(names(json!({})).await, "first second");
    assert_eq!(names(json!({"sort": "NAME_DESC", "limit": 1})).await, "second");
    assert_eq!(names(json!({"automations": {"tags": {"all_": ["one"]}}})).await, "first");
    assert_eq!(names(json!({"automations": {"tags": {"any_": ["x", "two"]}}})).await, "first");
    assert_eq!(names(json!({"automations": {"tags": {"is_null_": true}}})).await, "second");
    assert_eq!(names(json!({"automations": {"name": {"any_": ["second", "third"]}}})).await, "second");
    assert_eq!(names(json!({"automations": {"created": {"before_": "2020-01-01T00:00:00Z"}}})).await, "");
    assert_eq!(http.post("/automations/count", &json!({})).await.expect("it answers"), (200, json!(2)));

    assert_eq!(http.patch(&path, &json!({"enabled": false})).await.expect("it answers").0, 204);
    let (_, disabled) = http.get(&path).await.expect("it answers");
    assert_eq!(disabled["enabled"], false);
    assert_eq!(disabled["trigger"], created["trigger"], "nothing else changes");
    assert_eq!(http.patch(&path, &json!({"name": "x"})).await.expect("it answers").0, 422);

    for unset in ["owner_resource", "tags"] {
        body.as_object_mut().expect("an object").remove(unset);
    }
    body["name"] = json!("renamed");
    body["actions"] = json!([{"type": "do-nothing"}]);
    assert_eq!(put(&cluster, &created["id"], &body).await.0, 204);
    let (_, updated) = http.get(&path).await.expect("it answers");
    assert_eq!(updated["name"], "renamed");
    assert_eq!((&updated["enabled"], &updated["tags"]), (&json!(false), &created["tags"]), "what is not given stays as it is");
    assert_ne!(updated["trigger"]["id"], created["trigger"]["id"], "its triggers are new ones");
    let (_, none) = http.get(&format!("/automations/related-to/prefect.deployment.{NOBODY}")).await.expect("it answers");
    assert_eq!(none, json!([]), "it runs that deployment no more");

    assert_eq!(http.delete("/automations/owned-by/prefect.deployment.owner").await.expect("it answers").0, 202);
    assert_eq!(http.get(&path).await.expect("it answers"), (404, json!({"exception_message": "Automation not found"})));
    assert_eq!(http.delete(&path).await.expect("it answers").0, 404);
    assert_eq!(http.patch(&path, &json!({"enabled": true})).await.expect("it answers").0, 404);
    assert_eq!(put(&cluster, &created["id"], &body).await.0, 404);
    assert_eq!(names(json!({})).await, "second");

    let filter = json!({"filter": {
        "occurred": {"since": "2020-01-01T00:00:00Z", "until": "2100-01-01T00:00:00Z"},
        "event": {"prefix": ["prefect.automation."]},
    }});
    eventually(Duration::from_secs(20), "the automation's life is told", async || {
        let (_, page) = http.post("/events/filter", &filter).await.expect("it answers");
        let mut told: Vec<&str> = page["events"].as_array().into_iter().flatten().filter_map(|event| event["event"].as_str()).collect();
        told.sort_unstable();
        told == ["prefect.automation.created", "prefect.automation.created", "prefect.automation.updated", "prefect.automation.updated"]
    })
    .await;
}

#[tokio::test]
async fn automations_are_made_read_changed_and_deleted_on_sqlite() {
    automations_are_made_read_changed_and_deleted(Kind::Sqlite).await;
}

#[tokio::test]
async fn automations_are_made_read_changed_and_deleted_on_postgres() {
    automations_are_made_read_changed_and_deleted(Kind::Postgres).await;
}

#[tokio::test]
async fn bad_automations_are_refused_with_every_finding() {
    let cluster = one_node(Kind::Sqlite).await;
    let http = cluster.http(1);
    let refused = async |body: Value| {
        let (status, answer) = http.post("/automations/", &body).await.expect("it answers");
        assert_eq!(status, 422, "{body}: {answer}");
        answer
    };
    let nothing = refused(json!({})).await;
    let missing: Vec<&Value> = nothing["exception_detail"].as_array().expect("findings").iter().map(|one| &one["loc"][1]).collect();
    assert_eq!(missing, [&json!("name"), &json!("trigger"), &json!("actions")]);
    let union = refused(automation("a", json!({"type": "event"}))).await;
    assert_eq!(union["exception_detail"].as_array().map(Vec::len), Some(8), "{union}");
    assert_eq!(union["exception_detail"][0]["loc"], json!(["body", "trigger", "EventTrigger", "posture"]));
    let short = refused(automation("a", json!({"type": "event", "posture": "Proactive", "within": 5}))).await;
    assert_eq!(short["request_body"]["trigger"]["within"].to_string(), "5.0", "as the reference shows it");
    let mut template = automation("a", reactive(json!({})));
    template["actions"] = json!([{"type": "send-notification", "block_document_id": NOBODY, "body": "{{ no"}]);
    assert!(refused(template).await.to_string().contains("'body' is not a valid template"));
    let mut parameters = automation("a", reactive(json!({})));
    let given = json!({"a": {"b": {"__prefect_kind": "jinja"}}});
    parameters["actions"] = json!([{"type": "run-deployment", "source": "selected", "deployment_id": NOBODY, "parameters": given}]);
    assert!(refused(parameters).await.to_string().contains("a.b: Missing 'template' key in __prefect object"));
    let mut variables = automation("a", reactive(json!({})));
    variables["actions"] = json!([{"type": "run-deployment", "source": "selected", "deployment_id": NOBODY, "job_variables": {"a": 1}}]);
    let unknown = http.post("/automations/", &variables).await.expect("it answers");
    assert_eq!(unknown, (404, json!({"detail": "Deployment not found."})));

    let mut endless = automation("a", reactive(json!({"expect": ["prefect.flow-run.*"]})));
    endless["actions"] = json!([{"type": "run-deployment", "source": "inferred"}]);
    refused(endless.clone()).await;
    endless["enabled"] = json!(false);
    let disabled = made(&http, endless).await;
    let path = format!("/automations/{}", disabled["id"].as_str().expect("an id"));
    let (status, answer) = http.patch(&path, &json!({"enabled": true})).await.expect("it answers");
    assert_eq!((status, &answer["exception_detail"][0]["loc"]), (422, &json!([])), "{answer}");
    assert_eq!(http.post("/automations/count", &json!({})).await.expect("it answers").1, json!(1), "nothing else was written");
}

#[tokio::test]
async fn templates_are_checked() {
    let cluster = one_node(Kind::Sqlite).await;
    for path in ["/templates/validate", "/automations/templates/validate"] {
        let check = async |content_type: &'static str, body: &'static str| {
            let request = reqwest::Client::new().post(format!("{}{path}", cluster.api(1))).header("content-type", content_type);
            let response = request.body(body).send().await.expect("it answers");
            (response.status().as_u16(), response.json().await.unwrap_or(Value::Null))
        };
        assert_eq!(check("text/plain", "{{ hello }} world").await.0, 204);
        assert_eq!(check("application/json", "\"{{ hello }}\"").await.0, 204);
        assert_eq!(check("application/json", "").await.0, 204);
        let (status, answer) = check("text/plain", "1\n{{ ain't }").await;
        assert_eq!(
            (status, answer),
            (422, json!({"error": {"line": 2, "message": "unexpected char \"'\" at 8", "source": "1\n{{ ain't }"}}))
        );
        assert_eq!(check("application/json", "{\"a\": 1}").await.0, 422);
    }
}

fn event(name: &str, id: Uuid, occurred: chrono::DateTime<chrono::Utc>, follows: Option<Uuid>) -> Value {
    json!({
        "occurred": occurred.to_rfc3339(), "event": name, "id": id, "follows": follows,
        "resource": {"prefect.resource.id": "test.1", "lamp": "red"}, "related": [], "payload": {},
    })
}

/// The ids of the events that made automations of this name fire, in order.
async fn firings(http: &Http, name: &str) -> Vec<String> {
    let filter = json!({"limit": 50, "filter": {
        "occurred": {"since": "2020-01-01T00:00:00Z", "until": "2100-01-01T00:00:00Z"},
        "event": {"name": ["prefect.automation.triggered"]}, "order": "ASC",
    }});
    let (_, page) = http.post("/events/filter", &filter).await.expect("it answers");
    let of_name = |event: &&Value| event["resource"]["prefect.resource.name"] == name;
    let by = |event: &Value| event["payload"]["triggering_event"]["id"].as_str().unwrap_or("none").to_owned();
    page["events"].as_array().into_iter().flatten().filter(of_name).map(by).collect()
}

async fn send(cluster: &Cluster, events: &[Value]) {
    let mut socket = EventsIn::connect(&cluster.api(1)).await.expect("connects");
    for event in events {
        socket.send(event).await.expect("sent");
    }
    socket.confirm(Duration::from_secs(10)).await.expect("committed");
}

async fn events_make_automations_fire_once_and_in_order(kind: Kind) {
    let cluster = one_node(kind).await;
    let http = cluster.http(1);
    let now = chrono::Utc::now();
    let ids: Vec<Uuid> = (0..8).map(|_| Uuid::new_v4()).collect();
    made(&http, automation("every", reactive(json!({"expect": ["lamp.*"], "match": {"lamp": ["green", "r*"]}})))).await;
    made(&http, automation("none", reactive(json!({"expect": ["lamp.*"], "match": {"lamp": "!red"}})))).await;
    made(&http, automation("third", reactive(json!({"expect": ["lamp.*"], "threshold": 3, "within": 60})))).await;
    let sequence = json!({
        "type": "sequence", "within": 60,
        "triggers": [reactive(json!({"expect": ["lamp.on"]})), reactive(json!({"expect": ["lamp.off"]}))],
    });
    made(&http, automation("sequence", sequence)).await;

    // The second event waits for the first, which comes later; both come twice.
    let on = event("lamp.on", ids[0], now, None);
    let off = event("lamp.off", ids[1], now, Some(ids[0]));
    send(&cluster, &[off.clone(), event("other", ids[2], now, None)]).await;
    send(&cluster, &[on.clone(), off, on, event("lamp.on", ids[3], now, None)]).await;
    let expected: Vec<String> = [ids[0], ids[1], ids[3]].iter().map(Uuid::to_string).collect();
    eventually(Duration::from_secs(20), "every event of the lamp fires", async || firings(&http, "every").await == expected).await;
    eventually(Duration::from_secs(20), "the third fires", async || firings(&http, "third").await == expected[2..]).await;
    eventually(Duration::from_secs(20), "the sequence fires", async || firings(&http, "sequence").await == expected[1..2]).await;

    // A disabled automation does not fire, and one that is made counts from then on.
    let (_, all) = http.post("/automations/filter", &json!({"automations": {"name": {"any_": ["every"]}}})).await.expect("it answers");
    let path = format!("/automations/{}", all[0]["id"].as_str().expect("an id"));
    assert_eq!(http.patch(&path, &json!({"enabled": false})).await.expect("it answers").0, 204);
    made(&http, automation("new", reactive(json!({"expect": ["lamp.off"]})))).await;
    send(&cluster, &[event("lamp.off", ids[4], now, None)]).await;
    eventually(Duration::from_secs(20), "the new one fires", async || firings(&http, "new").await == [ids[4].to_string()]).await;
    assert_eq!(firings(&http, "every").await, expected);
    assert!(firings(&http, "none").await.is_empty());
    let mut look = cluster.database().look().await.expect("a look");
    assert_eq!(look.number("SELECT count(*) FROM automation_event_follower").await.expect("a number"), 0, "nobody waits any more");
}

#[tokio::test]
async fn events_make_automations_fire_once_and_in_order_on_sqlite() {
    events_make_automations_fire_once_and_in_order(Kind::Sqlite).await;
}

#[tokio::test]
async fn events_make_automations_fire_once_and_in_order_on_postgres() {
    events_make_automations_fire_once_and_in_order(Kind::Postgres).await;
}

async fn what_does_not_happen_makes_automations_fire(kind: Kind) {
    let options = Options::new(1, kind).variable("PREFECT_SERVER_EVENTS_PROACTIVE_GRANULARITY", "1");
    let cluster = start(options).await;
    let http = cluster.http(1);
    let trigger = json!({
        "type": "event", "posture": "Proactive", "after": ["begin"], "expect": ["end"], "within": 10,
        "for_each": ["prefect.resource.id"],
    });
    made(&http, automation("late", trigger)).await;
    let begun = chrono::Utc::now();
    let (first, second, done) = (Uuid::new_v4(), Uuid::new_v4(), Uuid::new_v4());
    let other = |mut event: Value| {
        event["resource"]["prefect.resource.id"] = json!("test.2");
        event
    };
    send(
        &cluster,
        &[event("begin", first, begun, None), other(event("begin", second, begun, None)), other(event("end", done, begun, None))],
    )
    .await;
    eventually(Duration::from_secs(30), "it fires for the resource that did not end", async || {
        firings(&http, "late").await == [first.to_string()]
    })
    .await;
    assert!(chrono::Utc::now() - begun >= chrono::TimeDelta::seconds(10), "not before the span is over");
    let mut look = cluster.database().look().await.expect("a look");
    eventually(Duration::from_secs(20), "no bucket is left", async || {
        look.number("SELECT count(*) FROM automation_bucket").await.expect("a number") == 0
    })
    .await;
}

#[tokio::test]
async fn what_does_not_happen_makes_automations_fire_on_sqlite() {
    what_does_not_happen_makes_automations_fire(Kind::Sqlite).await;
}

#[tokio::test]
async fn what_does_not_happen_makes_automations_fire_on_postgres() {
    what_does_not_happen_makes_automations_fire(Kind::Postgres).await;
}
