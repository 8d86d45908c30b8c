//! Triggers while events wait to be evaluated, as after an outage: they are not what did not happen.

use jepsen::database::Kind;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{BOTH, Fixture, start};
use crate::bus::{Bus, Message, ReadLimit, Topic};
use crate::id::AutomationId;
use crate::services::Consume;
use crate::services::triggers::Triggers;
use crate::store::{automations, cursors};

struct Watch {
    fixture: Fixture,
    triggers: Triggers,
}

impl Watch {
    async fn new(kind: Kind, trigger: Value) -> Self {
        let fixture = Fixture::new(kind).await;
        let mut trigger: Value = trigger;
        trigger["type"] = json!("event");
        trigger["id"] = json!(Uuid::from_u128(1));
        let core = serde_json::from_value(json!({"name": "watch", "trigger": trigger, "actions": []})).expect("an automation");
        let mut tx = fixture.begin().await;
        automations::insert(&mut tx, AutomationId(Uuid::from_u128(2)), start(), core).await.expect("inserted");
        tx.commit().await.expect("committed");
        Self { fixture, triggers: Triggers::default() }
    }

    /// An event of now is on the bus.
    async fn beat(&self) {
        let id = Uuid::new_v4();
        let event = json!({
            "id": id, "occurred": self.fixture.now(), "received": self.fixture.now(), "event": "beat",
            "resource": {"prefect.resource.id": "heart"}, "related": [], "payload": {},
        });
        let message = Message { id, payload: event.to_string().into() };
        self.fixture.bus.publish(Topic::Events, vec![message]).await.expect("published");
    }

    async fn look(&self) {
        self.triggers.look(&self.fixture.lead).await.expect("a look");
    }

    /// Evaluates all that waits.
    async fn consume(&self) {
        let lead = &self.fixture.lead;
        let (group, stream) = (self.triggers.name(), lead.app.stream_name(&Topic::Events));
        let mut tx = lead.begin("test").await.expect("a transaction");
        let from = cursors::read(&mut tx, group, &stream).await.expect("a cursor");
        let entries = self.fixture.bus.read(&Topic::Events, from, ReadLimit::default()).await.expect("readable");
        let Some(last) = entries.last() else { return };
        self.triggers.consume(lead, &mut tx, &entries).await.expect("an effect");
        cursors::advance(&mut tx, group, &stream, from, last.position, self.fixture.now()).await.expect("moved");
        tx.commit().await.expect("committed");
    }

    async fn firings(&self) -> usize {
        let names = self.fixture.event_names().await;
        names.iter().filter(|name| name.starts_with("prefect.automation.triggered")).count()
    }
}

#[tokio::test]
async fn what_waits_to_be_evaluated_is_not_what_did_not_happen() {
    for kind in BOTH {
        let trigger = json!({"posture": "Proactive", "expect": ["beat"], "threshold": 1, "within": 20});
        let watch = Watch::new(kind, trigger).await;
        watch.look().await;
        watch.fixture.pass(10);
        watch.beat().await;
        watch.fixture.pass(30);
        watch.look().await;
        assert_eq!(watch.firings().await, 0, "{kind:?}: it happened, and waits");
        watch.consume().await;
        watch.look().await;
        assert_eq!(watch.firings().await, 0, "{kind:?}: it happened in time");
        for _ in 0..4 {
            watch.fixture.pass(30);
            watch.consume().await;
            watch.look().await;
        }
        assert!(watch.firings().await > 0, "{kind:?}: it did not happen again");
    }
}

#[tokio::test]
async fn a_count_that_what_waits_goes_on_with_is_kept() {
    for kind in BOTH {
        let watch = Watch::new(kind, json!({"posture": "Reactive", "expect": ["beat"], "threshold": 2, "within": 0})).await;
        watch.beat().await;
        watch.consume().await;
        watch.look().await;
        watch.beat().await;
        watch.fixture.pass(300);
        watch.look().await;
        watch.consume().await;
        assert_eq!(watch.firings().await, 1, "{kind:?}: the second after the first");
    }
}
