//! Every operation of the reference's OpenAPI document is asked for; those that are not served yet are listed here.

use praetor::api::operations::OPERATIONS;

use serde_json::json;

use crate::harness::{Kind, one_node};

/// Operations that answer 501. A line goes when its operation is served.
const NOT_BUILT: &[&str] = &[];

#[tokio::test]
async fn what_is_not_built_answers_501_and_is_listed() {
    let cluster = one_node(Kind::Sqlite).await;
    let client = reqwest::Client::new();
    let mut not_built = Vec::new();
    for (method, template) in OPERATIONS {
        let path: String = template
            .split('/')
            .map(|part| if part.starts_with('{') { "00000000-0000-4000-8000-000000000000" } else { part })
            .collect::<Vec<_>>()
            .join("/");
        let method_name = reqwest::Method::from_bytes(method.as_bytes()).expect("a method");
        let request = client.request(method_name, format!("{}{path}", cluster.api(1))).header("content-type", "application/json");
        let request = if *method == "GET" { request } else { request.body("{}") };
        let response = request.send().await.expect("it answers");
        let status = response.status().as_u16();
        let body = response.text().await.expect("a body");
        assert_ne!(status, 500, "{method} {template}: {body}");
        assert_ne!(status, 405, "{method} {template}");
        if status == 501 {
            assert!(body.contains("does not serve yet"), "{method} {template}: {body}");
            not_built.push(format!("{method} {template}"));
        }
    }
    let mut listed: Vec<String> = NOT_BUILT.iter().map(|line| (*line).to_owned()).collect();
    listed.sort();
    not_built.sort();
    assert_eq!(not_built, listed);
}

#[tokio::test]
async fn the_document_of_the_api_and_its_pages_are_served_beside_it_and_below_it() {
    let cluster = one_node(Kind::Sqlite).await;
    let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().expect("a client");
    let api = cluster.api(1);
    let root = api.strip_suffix("/api").expect("the default base path");
    let mut documents = Vec::new();
    for base in [root, &api] {
        let response = client.get(format!("{base}/openapi.json")).send().await.expect("it answers");
        assert_eq!((response.status().as_u16(), response.headers()["content-type"].to_str().ok()), (200, Some("application/json")));
        documents.push(response.json::<serde_json::Value>().await.expect("JSON"));
        for (page, script) in [("docs", "swagger-ui-dist@5"), ("redoc", "redoc@2")] {
            let response = client.get(format!("{base}/{page}")).send().await.expect("it answers");
            assert_eq!(
                (response.status().as_u16(), response.headers()["content-type"].to_str().ok()),
                (200, Some("text/html; charset=utf-8"))
            );
            let text = response.text().await.expect("text");
            assert!(text.contains(script) && text.contains("\"openapi.json\""), "{text}");
        }
    }
    assert_eq!(documents[0], documents[1]);
    assert_eq!(documents[0]["servers"][0]["url"], "/api");
    assert!(documents[0]["paths"]["/flows/{id}"]["delete"].is_object());
    let slash = client.get(format!("{api}/docs/")).send().await.expect("it answers");
    assert_eq!((slash.status().as_u16(), slash.headers()["location"].to_str().ok()), (307, Some("/api/docs")));
    assert_eq!(client.post(format!("{api}/docs")).send().await.expect("it answers").status().as_u16(), 405);
}

#[tokio::test]
async fn paths_are_found_as_the_reference_finds_them() {
    let cluster = one_node(Kind::Sqlite).await;
    let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().expect("a client");
    let api = cluster.api(1);
    let slash = client.post(format!("{api}/flows?x=1")).send().await.expect("it answers");
    assert_eq!(slash.status().as_u16(), 307);
    assert_eq!(slash.headers()["location"].to_str().expect("text"), "/api/flows/?x=1");
    let method = client.put(format!("{api}/flows/")).send().await.expect("it answers");
    assert_eq!((method.status().as_u16(), method.text().await.expect("text")), (405, r#"{"detail":"Method Not Allowed"}"#.to_owned()));
    let nothing = client.get(format!("{api}/nothing")).send().await.expect("it answers");
    assert_eq!((nothing.status().as_u16(), nothing.text().await.expect("text")), (404, r#"{"detail":"Not Found"}"#.to_owned()));
}

#[tokio::test]
async fn a_name_may_be_a_word_of_another_path() {
    let cluster = one_node(Kind::Sqlite).await;
    let http = cluster.http(1);
    for name in ["filter", "count"] {
        let (status, made) = http.post("/work_pools/", &json!({"name": name})).await.expect("it answers");
        assert_eq!(status, 201, "{made}");
        let (status, pool) = http.get(&format!("/work_pools/{name}")).await.expect("it answers");
        assert_eq!((status, &pool["name"]), (200, &json!(name)), "{pool}");
        let (status, queue) = http.get(&format!("/work_pools/{name}/queues/default")).await.expect("it answers");
        assert_eq!((status, &queue["name"]), (200, &json!("default")), "{queue}");
    }
    let (status, pools) = http.post("/work_pools/filter", &json!({})).await.expect("it answers");
    assert_eq!((status, pools.as_array().map(Vec::len)), (200, Some(2)), "{pools}");
}
