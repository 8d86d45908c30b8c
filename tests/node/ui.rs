//! The UI's files: found where a setting says, served with the base path in them, and never changed.

use std::path::Path;

use jepsen::cluster::Options;
use reqwest::header::{ACCEPT, CONTENT_TYPE, COOKIE, ETAG, IF_NONE_MATCH, LOCATION, RANGE};
use reqwest::redirect::Policy;
use reqwest::{Client, Response};
use serde_json::{Value, json};

use crate::harness::{Cluster, Kind, start};

const PLACEHOLDER: &str = "/PREFECT_UI_SERVE_BASE_REPLACE_PLACEHOLDER";

/// A UI of two generations as the package has them, of two files each.
fn write_ui(directory: &Path) {
    for name in ["ui", "ui-v2"] {
        std::fs::create_dir_all(directory.join(name).join("assets")).expect("made");
        let page = format!("<html><!-- {name} --><script src=\"{PLACEHOLDER}/assets/main.js\"></script></html>");
        std::fs::write(directory.join(name).join("index.html"), page).expect("written");
        let script = format!("const base = '{PLACEHOLDER}'; // {}", "x".repeat(1000));
        std::fs::write(directory.join(name).join("assets/main.js"), script).expect("written");
    }
}

struct Ui {
    node: Cluster,
    client: Client,
    _files: tempfile::TempDir,
}

impl Ui {
    async fn new(variables: &[(&str, &str)]) -> Self {
        let files = tempfile::tempdir().expect("a directory");
        write_ui(files.path());
        let options = Options::new(1, Kind::Sqlite).variable("PRAETOR_UI_DIR", files.path().display());
        let options = variables.iter().fold(options, |options, (name, value)| options.variable(name, value));
        let client = Client::builder().redirect(Policy::none()).build().expect("a client");
        Self { node: start(options).await, client, _files: files }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.node.address(1))
    }

    /// As a browser that navigates.
    async fn navigate(&self, path: &str, cookie: &str) -> Response {
        let request = self.client.get(self.url(path)).header(ACCEPT, "text/html,*/*;q=0.8").header(COOKIE, cookie);
        request.send().await.expect("it answers")
    }

    async fn get(&self, path: &str) -> Response {
        self.client.get(self.url(path)).send().await.expect("it answers")
    }

    async fn settings(&self, path: &str) -> Value {
        self.get(path).await.json().await.expect("JSON")
    }
}

fn header(response: &Response, name: reqwest::header::HeaderName) -> String {
    response.headers().get(name).map(|value| value.to_str().expect("text").to_owned()).unwrap_or_default()
}

#[tokio::test]
async fn both_generations_are_served_and_a_browser_is_sent_to_its_own() {
    let ui = Ui::new(&[]).await;
    for (path, cookie, wanted) in [
        ("/", "", "/v2/"),
        ("/?a=b&c", "", "/v2/?a=b&c"),
        ("/v2", "", "/v2/"),
        ("/ui-settings/", "", "/ui-settings"),
        ("/", "prefect_ui_version=v2", "/v2/"),
    ] {
        let answer = ui.navigate(path, cookie).await;
        assert_eq!((answer.status().as_u16(), header(&answer, LOCATION).as_str()), (307, wanted), "{path} {cookie}");
    }
    for (path, cookie, generation, base) in [
        ("/", "prefect_ui_version=v1", "ui", ""),
        ("/runs/flow-run/1", "", "ui", ""),
        ("/api", "", "ui", ""),
        ("/v2/", "prefect_ui_version=v1", "ui-v2", "/v2"),
        ("/v2/runs", "", "ui-v2", "/v2"),
    ] {
        let answer = ui.navigate(path, cookie).await;
        assert_eq!((answer.status().as_u16(), header(&answer, CONTENT_TYPE).as_str()), (200, "text/html; charset=utf-8"), "{path}");
        let text = answer.text().await.expect("text");
        assert_eq!(text, format!("<html><!-- {generation} --><script src=\"{base}/assets/main.js\"></script></html>"), "{path}");
    }
    for path in ["/runs", "/v2/nothing.js", "/assets", "/v2/assets/", "/..%2f..%2fetc%2fpasswd"] {
        assert_eq!(ui.get(path).await.status().as_u16(), 404, "{path}");
    }
    assert_eq!(ui.client.post(ui.url("/assets/main.js")).send().await.expect("it answers").status().as_u16(), 405);
    assert_eq!(ui.client.post(ui.url("/runs")).send().await.expect("it answers").status().as_u16(), 404);
    let settings = ui.settings("/ui-settings").await;
    let api = format!("http://{}/api", ui.node.address(1));
    let wanted = json!({
        "api_url": api, "csrf_enabled": false, "auth": null, "flags": [], "default_ui": "v2",
        "available_uis": ["v1", "v2"], "v1_base_url": "/", "v2_base_url": "/v2",
    });
    assert_eq!(settings, wanted);
}

#[tokio::test]
async fn the_base_paths_of_the_settings_stand_in_the_files() {
    let ui = Ui::new(&[
        ("PREFECT_UI_SERVE_BASE", "/prefect"),
        ("PREFECT_SERVER_API_BASE_PATH", "/prefect/rest"),
        ("PREFECT_SERVER_UI_V2_ENABLED", "false"),
        ("PREFECT_UI_API_URL", "https://example.test/prefect/rest"),
    ])
    .await;
    for (path, base) in [("/prefect/", "/prefect"), ("/prefect/v2/", "/prefect/v2")] {
        let text = ui.navigate(path, "").await.text().await.expect("text");
        assert!(text.contains(&format!("src=\"{base}/assets/main.js\"")), "{path}: {text}");
        let script = ui.get(&format!("{base}/assets/main.js")).await.text().await.expect("text");
        assert!(script.starts_with(&format!("const base = '{base}';")), "{path}: {script}");
    }
    assert_eq!(ui.navigate("/", "").await.status().as_u16(), 404);
    assert_eq!(ui.get("/prefect/rest/health").await.text().await.expect("text"), "true");
    let settings = ui.settings("/prefect/ui-settings").await;
    assert_eq!((&settings["default_ui"], &settings["api_url"]), (&json!("v1"), &json!("https://example.test/prefect/rest")));
    assert_eq!((&settings["v1_base_url"], &settings["v2_base_url"]), (&json!("/prefect"), &json!("/prefect/v2")));
}

#[tokio::test]
async fn a_browser_keeps_a_file_and_may_ask_for_a_part() {
    let ui = Ui::new(&[]).await;
    let whole = ui.get("/assets/main.js").await;
    let etag = header(&whole, ETAG);
    assert_eq!(header(&whole, CONTENT_TYPE), "text/javascript; charset=utf-8");
    assert!(whole.headers().contains_key("last-modified"));
    let text = whole.text().await.expect("text");
    let again = ui.client.get(ui.url("/assets/main.js")).header(IF_NONE_MATCH, format!("\"other\", W/{etag}"));
    assert_eq!(again.send().await.expect("it answers").status().as_u16(), 304);
    assert_ne!(header(&ui.get("/v2/assets/main.js").await, ETAG), etag, "another base path is another file");
    let part = ui.client.get(ui.url("/assets/main.js")).header(RANGE, "bytes=6-9").send().await.expect("it answers");
    assert_eq!(
        (part.status().as_u16(), header(&part, "content-range".parse().expect("a name"))),
        (206, format!("bytes 6-9/{}", text.len()))
    );
    assert_eq!(part.text().await.expect("text"), "base");
    let packed = ui.client.get(ui.url("/assets/main.js")).header("accept-encoding", "gzip").send().await.expect("it answers");
    assert_eq!(header(&packed, "content-encoding".parse().expect("a name")), "gzip");
    let head = ui.client.head(ui.url("/assets/main.js")).send().await.expect("it answers");
    assert_eq!(header(&head, "content-length".parse().expect("a name")), text.len().to_string());
}

#[tokio::test]
async fn no_ui_means_none_and_the_settings_say_so() {
    let ui = Ui::new(&[("PREFECT_UI_ENABLED", "false")]).await;
    for path in ["/", "/v2/", "/runs"] {
        assert_eq!(ui.navigate(path, "").await.status().as_u16(), 404, "{path}");
    }
    let settings = ui.settings("/ui-settings").await;
    assert_eq!((&settings["available_uis"], &settings["default_ui"], &settings["v2_base_url"]), (&json!([]), &json!("v2"), &Value::Null));
}

#[tokio::test]
async fn one_generation_alone_answers_for_both() {
    let directory = tempfile::tempdir().expect("a directory");
    std::fs::create_dir(directory.path().join("v1")).expect("made");
    std::fs::write(directory.path().join("v1/index.html"), "only").expect("written");
    let node = start(Options::new(1, Kind::Sqlite).variable("PRAETOR_UI_DIR", directory.path().display())).await;
    let client = Client::builder().redirect(Policy::none()).build().expect("a client");
    let get = async |path: &str| {
        let request = client.get(format!("http://{}{path}", node.address(1))).header(ACCEPT, "text/html");
        request.send().await.expect("it answers")
    };
    assert_eq!(get("/").await.text().await.expect("text"), "only");
    assert_eq!(header(&get("/v2/runs?x=1").await, LOCATION), "/runs?x=1");
    assert_eq!(header(&get("/v2//elsewhere.test/").await, LOCATION), "/elsewhere.test/");
}
