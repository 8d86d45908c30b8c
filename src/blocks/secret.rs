//! What is secret in block documents: the key that all data are encrypted with, and the fields that readers see only as
//! stars.
//!
//! The key is the setting's, else the `configuration` row `ENCRYPTION_KEY`. The row is written once, in a transaction
//! of its own before anything is encrypted with it, and read back: of nodes that start together one wins, and all use
//! its key. A row that is gone is written again with the key that this process knows: without it nobody could read what
//! is stored. Python reads what we encrypt and the other way round.

use fernet::Fernet;
use parking_lot::Mutex;
use serde_json::{Map, Value, json};

use super::BlockError;
use crate::clock::Timestamp;
use crate::config::Secret;
use crate::model::json::python_dumps;
use crate::store::{Store, configuration};

/// The row's key.
const CONFIGURATION_KEY: &str = "ENCRYPTION_KEY";

/// What a reader sees of a secret.
pub const STARS: &str = "********";

/// The key of this installation, as this process knows it.
#[derive(Default)]
pub struct Keeper {
    /// The row, when it was last read.
    known: Mutex<Option<Value>>,
}

impl Keeper {
    /// The cipher of this installation; makes its key where there is none yet.
    ///
    /// # Errors
    /// [`BlockError::Cipher`] where the key is malformed.
    pub async fn cipher(&self, store: &Store, setting: Option<&Secret>, now: Timestamp) -> Result<Cipher, BlockError> {
        if let Some(key) = setting {
            return Cipher::new(key.expose(), "PREFECT_SERVER_ENCRYPTION_KEY");
        }
        let stored = configuration::read(&mut store.read("blocks.key").await?, CONFIGURATION_KEY).await?;
        let stored = match stored {
            Some(stored) => stored,
            None => self.write_key(store, now).await?,
        };
        let cipher = Cipher::new(stored["fernet_key"].as_str().unwrap_or_default(), "the key in the database")?;
        *self.known.lock() = Some(stored);
        Ok(cipher)
    }

    async fn write_key(&self, store: &Store, now: Timestamp) -> Result<Value, BlockError> {
        let known = self.known.lock().clone();
        if known.is_some() {
            tracing::warn!("the encryption key of blocks was removed from the database; it is written again");
        }
        let key = known.unwrap_or_else(|| json!({"fernet_key": Fernet::generate_key()}));
        let mut tx = store.begin("blocks.write_key").await?;
        configuration::write_once(&mut tx, crate::id::v4(), now, CONFIGURATION_KEY, &key).await?;
        tx.commit().await?;
        let kept = configuration::read(&mut store.read("blocks.key").await?, CONFIGURATION_KEY).await?;
        kept.ok_or_else(|| BlockError::Cipher("the encryption key was removed while it was made".to_owned()))
    }
}

/// Encrypts and decrypts the data of documents.
pub struct Cipher(Fernet);

impl Cipher {
    fn new(key: &str, origin: &str) -> Result<Self, BlockError> {
        let wrong = || BlockError::Cipher(format!("{origin} is no Fernet key (32 bytes in URL-safe base64)"));
        Fernet::new(key).map(Self).ok_or_else(wrong)
    }

    /// The data as the column holds them.
    pub fn encrypt(&self, data: &Map<String, Value>) -> Value {
        Value::String(self.0.encrypt(python_dumps(&Value::Object(data.clone())).as_bytes()))
    }

    /// The data of a column. (A row that nobody wrote data to holds an empty object.)
    ///
    /// # Errors
    /// [`BlockError::Cipher`] where they were encrypted with another key.
    pub fn decrypt(&self, column: &Value) -> Result<Map<String, Value>, BlockError> {
        let token = match column {
            Value::String(token) => token,
            Value::Object(plain) if plain.is_empty() => return Ok(Map::new()),
            _ => return Err(BlockError::Cipher("the data of a block document are not encrypted".to_owned())),
        };
        let wrong = || BlockError::Cipher("the data of a block document were encrypted with another key".to_owned());
        let plain = self.0.decrypt(token).map_err(|_| wrong())?;
        serde_json::from_slice(&plain).map_err(|_| wrong())
    }
}

/// A value with the keys that lead to it.
type Leaf = (Vec<String>, Value);

/// The leaves of nested objects; an empty object is a leaf.
fn flatten(data: Map<String, Value>) -> Vec<Leaf> {
    fn walk(path: &[String], object: Map<String, Value>, leaves: &mut Vec<Leaf>) {
        for (key, value) in object {
            let path = [path, &[key]].concat();
            match value {
                Value::Object(inner) if !inner.is_empty() => walk(&path, inner, leaves),
                leaf => leaves.push((path, leaf)),
            }
        }
    }
    let mut leaves = Vec::new();
    walk(&[], data, &mut leaves);
    leaves
}

fn unflatten(leaves: Vec<Leaf>) -> Map<String, Value> {
    let mut whole = Map::new();
    for (path, leaf) in leaves {
        let mut inner = &mut whole;
        let (last, parents) = path.split_last().expect("a leaf has a key");
        for key in parents {
            let entry = inner.entry(key.clone()).or_insert_with(|| Value::Object(Map::new()));
            inner = entry.as_object_mut().expect("only objects have leaves below them");
        }
        inner.insert(last.clone(), leaf);
    }
    whole
}

/// True where the leaf is the secret that `field` names, or below it. The reference shows objects in a secret field
/// that has no `*` as they are; here a secret stays one whatever its shape.
fn is_secret(field: &str, (path, value): &Leaf) -> bool {
    let named: Vec<&str> = field.split('.').take_while(|part| *part != "*").collect();
    let any = field.split('.').any(|part| part == "*");
    path.len() >= named.len()
        && named.iter().zip(path).all(|(wanted, given)| wanted == given)
        && (any || path.len() > named.len() || !value.is_null())
}

/// Puts stars in place of secrets.
pub fn obfuscate<'a>(data: Map<String, Value>, secret_fields: impl Iterator<Item = &'a str>) -> Map<String, Value> {
    let mut leaves = flatten(data);
    for field in secret_fields {
        for leaf in &mut leaves {
            if is_secret(field, leaf) {
                leaf.1 = Value::String(STARS.to_owned());
            }
        }
    }
    unflatten(leaves)
}

/// Puts secrets in place of stars, where an update gives back what its author was shown.
pub fn keep_unseen<'a>(
    update: Map<String, Value>,
    current: &Map<String, Value>,
    secret_fields: impl Iterator<Item = &'a str>,
) -> Map<String, Value> {
    let mut leaves = flatten(update);
    let current = flatten(current.clone());
    for field in secret_fields {
        for leaf in &mut leaves {
            if leaf.1 == STARS
                && is_secret(field, leaf)
                && let Some((_, secret)) = current.iter().find(|(path, _)| *path == leaf.0)
            {
                leaf.1 = secret.clone();
            }
        }
    }
    unflatten(leaves)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(value: Value) -> Map<String, Value> {
        match value {
            Value::Object(object) => object,
            other => panic!("no object: {other}"),
        }
    }

    #[test]
    fn secrets_are_stars_to_readers() {
        let fields = ["key", "login.password", "headers.*", "absent", "none"];
        let data = object(json!({
            "key": "k", "plain": "p", "login": {"user": "u", "password": 3}, "headers": {"a": "1", "b": {"c": null}}, "none": null
        }));
        let seen = object(json!({
            "key": STARS, "plain": "p", "login": {"user": "u", "password": STARS}, "headers": {"a": STARS, "b": {"c": STARS}}, "none": null
        }));
        assert_eq!(obfuscate(data.clone(), fields.into_iter()), seen);
        assert_eq!(keep_unseen(seen, &data, fields.into_iter()), data);
    }

    #[test]
    fn an_object_in_a_secret_field_is_secret() {
        let data = object(json!({"value": {"a": "1", "b": [2]}}));
        assert_eq!(obfuscate(data.clone(), ["value"].into_iter()), object(json!({"value": {"a": STARS, "b": STARS}})));
        let update = object(json!({"value": {"a": STARS, "b": [3]}}));
        assert_eq!(keep_unseen(update, &data, ["value"].into_iter()), object(json!({"value": {"a": "1", "b": [3]}})));
    }

    #[test]
    fn stars_outside_secret_fields_are_data() {
        let update = object(json!({"plain": STARS, "new": STARS}));
        assert_eq!(keep_unseen(update.clone(), &object(json!({"plain": "p"})), ["new"].into_iter()), update);
    }

    #[test]
    fn data_survive_encryption_with_the_right_key_only() {
        let key = Fernet::generate_key();
        let cipher = Cipher::new(&key, "test").expect("generated");
        let data = object(json!({"a": "ä", "b": {"c": 1.5}}));
        let column = cipher.encrypt(&data);
        assert!(column.as_str().is_some_and(|token| token.starts_with("gAAAAA")), "the first bytes of any Fernet token");
        assert_eq!(cipher.decrypt(&column).expect("same key"), data);
        assert!(Cipher::new(&Fernet::generate_key(), "test").expect("generated").decrypt(&column).is_err());
        assert!(Cipher::new("short", "test").is_err());
    }
}
