//! Blocks on a real database (SQLite in a directory of the test): schemas and documents inside each other, and the key.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection};
use tempfile::TempDir;

use super::registry::{self, Definition};
use super::secret::{Cipher, Keeper, STARS};
use super::{BlockError, checksum, document, schema};
use crate::clock::Timestamp;
use crate::id::{BlockDocumentId, BlockTypeId};
use crate::model::block::{BlockDocumentCreate, BlockDocumentUpdate, BlockSchema, BlockSchemaCreate, BlockTypeCreate, NO_VERSION};
use crate::store::block_types::{self, Taken};
use crate::store::{Store, StoreOptions, block_schemas, configuration, migrate};

struct Bench {
    store: Store,
    now: Timestamp,
    _directory: TempDir,
}

async fn bench() -> Bench {
    let directory = TempDir::new().expect("a directory");
    let options = SqliteConnectOptions::new().filename(directory.path().join("blocks.db")).create_if_missing(true);
    let mut connection = options.connect().await.expect("a file");
    migrate::upgrade_sqlite(&mut connection).await.expect("a fresh database");
    connection.close().await.expect("closes");
    let now = crate::model::json::parse_timestamp("2026-01-02T03:04:05Z").expect("a moment");
    Bench { store: Store::sqlite(options, &StoreOptions::default()), now, _directory: directory }
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(object) => object,
        other => panic!("no object: {other}"),
    }
}

fn inner_fields() -> Value {
    json!({
        "title": "Inner", "type": "object", "block_type_slug": "inner", "block_schema_references": {}, "secret_fields": ["token"],
        "properties": {"token": {"type": "string"}},
    })
}

fn outer_fields() -> Value {
    let inner = checksum::of(&object(inner_fields()));
    json!({
        "title": "Outer", "type": "object", "block_type_slug": "outer", "secret_fields": ["inner.token"],
        "block_schema_references": {"inner": {"block_type_slug": "inner", "block_schema_checksum": inner}},
        "properties": {"inner": {"$ref": "#/definitions/Inner"}, "plain": {"$ref": "#/definitions/Plain"}},
        "definitions": {"Inner": inner_fields(), "Plain": {"title": "Plain", "type": "object"}},
    })
}

impl Bench {
    async fn block_type(&self, slug: &str) -> BlockTypeId {
        let id = BlockTypeId::fresh();
        let create = BlockTypeCreate {
            name: slug.to_owned(),
            slug: slug.to_owned(),
            logo_url: None,
            documentation_url: None,
            description: None,
            code_example: None,
        };
        let mut tx = self.store.begin("test").await.expect("a transaction");
        block_types::insert(&mut tx, id, self.now, &create, false, Taken::Error).await.expect("inserted");
        tx.commit().await.expect("committed");
        id
    }

    async fn schema(&self, block_type_id: BlockTypeId, fields: Value) -> Result<(BlockSchema, bool), BlockError> {
        let create = BlockSchemaCreate {
            fields: object(fields),
            block_type_id,
            capabilities: vec!["b".to_owned(), "a".to_owned()],
            version: NO_VERSION.to_owned(),
        };
        let mut tx = self.store.begin("test").await?;
        let made = schema::create(&mut tx, self.now, create).await?;
        tx.commit().await?;
        Ok(made)
    }

    async fn document(&self, cipher: &Cipher, of: &BlockSchema, name: &str, data: Value) -> Result<BlockDocumentId, BlockError> {
        let create = BlockDocumentCreate {
            name: Some(name.to_owned()),
            data: object(data),
            block_schema_id: of.id,
            block_type_id: of.block_type_id,
            is_anonymous: false,
        };
        let mut tx = self.store.begin("test").await?;
        let id = document::create(&mut tx, cipher, self.now, create).await?;
        tx.commit().await?;
        Ok(id)
    }

    async fn data(&self, cipher: &Cipher, id: BlockDocumentId, secrets: bool) -> Value {
        let mut tx = self.store.read("test").await.expect("a connection");
        let document = document::by_id(&mut tx, cipher, id, secrets).await.expect("read").expect("there");
        Value::Object(document.data)
    }

    async fn update(&self, cipher: &Cipher, id: BlockDocumentId, data: Value, merge: bool) -> Result<bool, BlockError> {
        let update = BlockDocumentUpdate { block_schema_id: None, data: Some(object(data)), merge_existing_data: merge };
        let mut tx = self.store.begin("test").await?;
        let changed = document::update(&mut tx, cipher, id, self.now, update).await?;
        tx.commit().await?;
        Ok(changed)
    }
}

#[tokio::test]
async fn a_schema_is_taken_apart_and_put_together() {
    let bench = bench().await;
    let outer_type = bench.block_type("outer").await;
    let refused = bench.schema(outer_type, outer_fields()).await.expect_err("the inner type is not registered");
    assert!(matches!(refused, BlockError::MissingBlockType(slug) if slug == "inner"));

    bench.block_type("inner").await;
    let (made, is_new) = bench.schema(outer_type, outer_fields()).await.expect("stored");
    assert!(is_new);
    assert_eq!(made.checksum, checksum::of(&object(outer_fields())));
    let (again, is_new) = bench.schema(outer_type, outer_fields()).await.expect("found");
    assert!(!is_new);
    assert_eq!(again.id, made.id);

    let mut tx = bench.store.read("test").await.expect("a connection");
    let read = schema::by_id(&mut tx, made.id).await.expect("read").expect("there");
    assert_eq!(Value::Object(read.fields), outer_fields());
    let stored = block_schemas::by_ids(&mut tx, &[made.id]).await.expect("read").pop().expect("there");
    assert_eq!(stored.fields["definitions"], json!({"Plain": {"title": "Plain", "type": "object"}}), "blocks have rows of their own");
    let inner = schema::by_checksum(&mut tx, &checksum::of(&object(inner_fields())), None).await.expect("read").expect("stored beside");
    assert_eq!(inner.fields["title"], "Inner");
    assert_eq!(block_schemas::capabilities(&mut tx).await.expect("read"), ["a", "b"]);
}

#[tokio::test]
async fn documents_hold_others_and_keep_their_secrets() {
    let bench = bench().await;
    let cipher = Keeper::default().cipher(&bench.store, None, bench.now).await.expect("a key");
    let inner = bench.schema(bench.block_type("inner").await, inner_fields()).await.expect("stored").0;
    let outer = bench.schema(bench.block_type("outer").await, outer_fields()).await.expect("stored").0;
    let inside = bench.document(&cipher, &inner, "inside", json!({"token": "t", "n": 1})).await.expect("stored");
    let reference = json!({"$ref": {"block_document_id": inside}});
    let around = bench.document(&cipher, &outer, "around", json!({"inner": reference, "x": 1})).await.expect("stored");

    assert_eq!(bench.data(&cipher, around, true).await, json!({"x": 1, "inner": {"token": "t", "n": 1}}));
    assert_eq!(bench.data(&cipher, around, false).await, json!({"x": 1, "inner": {"token": STARS, "n": 1}}));

    // An author who sends back what was shown does not lose the secret; a new one replaces it.
    assert!(bench.update(&cipher, inside, json!({"token": STARS, "n": 2}), true).await.expect("changed"));
    assert_eq!(bench.data(&cipher, inside, true).await, json!({"token": "t", "n": 2}));
    assert!(bench.update(&cipher, inside, json!({"token": "u"}), false).await.expect("changed"));
    assert_eq!(bench.data(&cipher, inside, true).await, json!({"token": "u"}));

    let cycle = json!({"inner": {"$ref": {"block_document_id": around}}});
    assert!(matches!(bench.update(&cipher, inside, cycle, true).await, Err(BlockError::Invalid(reason)) if reason.contains("cycle")));
    let nameless = bench.document(&cipher, &outer, "nameless", json!({"inner": {"$ref": {}}})).await;
    assert!(matches!(nameless, Err(BlockError::Invalid(reason)) if reason.contains("without a block_document_id")));

    assert!(bench.update(&cipher, around, json!({"x": 2}), false).await.expect("changed"));
    assert_eq!(bench.data(&cipher, around, true).await, json!({"x": 2}), "a reference that is not given again is gone");
}

#[tokio::test]
async fn nodes_that_start_together_agree_on_one_key() {
    let bench = bench().await;
    let keepers: Vec<Keeper> = (0..8).map(|_| Keeper::default()).collect();
    let ciphers = futures_util::future::join_all(keepers.iter().map(|keeper| keeper.cipher(&bench.store, None, bench.now))).await;
    let ciphers: Vec<Cipher> = ciphers.into_iter().collect::<Result<_, _>>().expect("eight keys");
    let data = object(json!({"a": 1}));
    for (one, other) in ciphers.iter().zip(ciphers.iter().skip(1)) {
        assert_eq!(other.decrypt(&one.encrypt(&data)).expect("the same key"), data);
    }
}

#[tokio::test]
async fn a_key_that_was_removed_is_written_again() {
    let bench = bench().await;
    let data = object(json!({"a": 1}));
    let keeper = Keeper::default();
    let stored = keeper.cipher(&bench.store, None, bench.now).await.expect("a key").encrypt(&data);
    let mut tx = bench.store.begin("test").await.expect("a transaction");
    assert!(configuration::delete(&mut tx, "ENCRYPTION_KEY").await.expect("deleted"));
    tx.commit().await.expect("committed");
    keeper.cipher(&bench.store, None, bench.now).await.expect("the key");
    let other = Keeper::default().cipher(&bench.store, None, bench.now).await.expect("the key");
    assert_eq!(other.decrypt(&stored).expect("the same key"), data);
}

#[tokio::test]
async fn registration_can_be_repeated() {
    let bench = bench().await;
    let definitions: Vec<Definition> = registry::protected();
    let mut counts = BTreeSet::new();
    for _ in 0..2 {
        for definition in &definitions {
            let mut tx = bench.store.begin("test").await.expect("a transaction");
            registry::register(&mut tx, bench.now, definition).await.expect("registered");
            tx.commit().await.expect("committed");
        }
        let mut tx = bench.store.read("test").await.expect("a connection");
        let types = block_types::list(&mut tx, None, None, 10, 0).await.expect("listed");
        assert_eq!(types.iter().map(|kind| kind.slug.as_str()).collect::<Vec<_>>(), ["local-file-system", "secret", "webhook"]);
        assert!(types.iter().all(|kind| kind.is_protected));
        counts.insert(block_schemas::list(&mut tx, None, 10, 0).await.expect("listed").len());
    }
    assert_eq!(counts, BTreeSet::from([3]));
}
