//! The published UI in a browser, through the front door of a group: `ui_walk.py` loads every page of both generations,
//! runs a deployment, pauses a schedule, creates a block. Screenshots are kept below `target/`.

use std::path::Path;

use jepsen::database::Kind;
use jepsen::dev::Dev;
use serde_json::json;

use crate::harness::{Client, Options, PRAETOR};

#[tokio::test]
async fn every_page_of_the_ui_loads_without_a_failed_request() {
    let prefect = std::env::var("PRAETOR_TEST_PREFECT").expect("tests/run names the published prefect");
    let environment = Path::new(&prefect).parent().and_then(Path::parent).expect("it lies in an environment");
    let options = Options::new(3, Kind::Postgres).binary(PRAETOR).variable("VIRTUAL_ENV", environment.display());
    let dev = Dev::start(options).await.expect("the group starts");
    let url = dev.api().trim_end_matches("/api").to_owned();
    let shots = Path::new(env!("CARGO_TARGET_TMPDIR")).join("ui-walk");
    let shots = shots.to_str().expect("the path is text");
    let client = Client::new(&dev.api());
    let mut script = client.script("compat/ui_walk.py", &["--url", &url, "--shots", shots]);
    let told = script.line().await;
    assert_eq!(told["uis"], json!(["v1", "v2"]));
    assert_eq!(told["findings"], json!([]), "screenshots are in {shots}");
    assert!(told["pages"].as_u64() >= Some(60), "{told}");
    script.success().await;
}
