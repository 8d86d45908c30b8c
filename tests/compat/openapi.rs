//! The OpenAPI document of a running node, compared with the one that the published package makes (`openapi.py`).

use crate::harness::{Client, Kind, one_node};

/// What the comparison looks at, at least: so that it cannot pass by looking at nothing.
const COMPARED: [(&str, u64); 3] = [("operations", 187), ("parameters", 300), ("fields", 1500)];

#[tokio::test]
async fn the_document_differs_from_the_references_only_where_that_is_explained() {
    let cluster = one_node(Kind::Sqlite).await;
    let api = cluster.api(1);
    let output = Client::new(&api).python("compat/openapi.py").args(["--api", &api]).output().await.expect("python runs");
    let (told, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{told}{errors}");
    let last = told.lines().last().expect("a summary");
    for (what, least) in COMPARED {
        let counted = last.split([' ', ',', ':']).collect::<Vec<_>>();
        let count = counted.windows(2).find(|pair| pair[1] == what).and_then(|pair| pair[0].parse::<u64>().ok());
        assert!(count.is_some_and(|count| count >= least), "{what}: {last}");
    }
}
