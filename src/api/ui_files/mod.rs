//! The Prefect UI: its files are read from where they lie (none are part of this program) and served beside the API.
//!
//! There are two generations, served at once: `v1` at the base path of the settings, `v2` one segment below it. The base
//! path is put into a file's text while it is served; nothing is written. Whoever navigates to the base path itself is
//! sent to the generation that he last chose (a cookie that the UI sets), else to the default one, as the reference's
//! `server/api/server.py` does it.

mod file;
mod navigation;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::body::Body;
use axum::extract::Request;
use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::api::ApiError;
use crate::blocks::registry;
use crate::config::ServerSettings;

/// A build of the UI.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Generation {
    V1,
    V2,
}

impl Generation {
    /// As the cookie and `/ui-settings` name it; the last segment of the path of `v2`.
    pub fn name(self) -> &'static str {
        match self {
            Self::V1 => "v1",
            Self::V2 => "v2",
        }
    }
}

/// The files that are there, and where they are served.
#[derive(Clone, Debug)]
pub struct UiFiles {
    v1: Bundle,
    v2: Bundle,
    preferred: Generation,
}

/// One generation.
#[derive(Clone, Debug)]
struct Bundle {
    /// Its base path, without a slash at the end; empty for the root.
    base: String,
    /// Where its `index.html` lies; `None` where it is not served.
    directory: Option<PathBuf>,
}

/// The directory that was named holds no UI.
#[derive(Debug, thiserror::Error)]
#[error("there is no UI in {0}; --ui-dir must name a directory that holds ui/ or ui-v2/, or v1/ or v2/, each with an index.html")]
pub struct NoUi(String);

impl UiFiles {
    /// Looks for the files: in the directory of the setting, in that which the reference would have copied them to, in
    /// an installed `prefect` package.
    ///
    /// # Errors
    /// The setting names a directory without a UI.
    pub async fn find(settings: &ServerSettings) -> Result<Arc<Self>, NoUi> {
        let (v1_base, v2_base) = bases(&settings.ui_serve_base);
        let preferred = if settings.ui_v2_enabled { Generation::V2 } else { Generation::V1 };
        let mut found = Self { v1: Bundle { base: v1_base, directory: None }, v2: Bundle { base: v2_base, directory: None }, preferred };
        if !settings.ui_enabled {
            return Ok(Arc::new(found));
        }
        if let Some(directory) = &settings.ui_directory {
            found.look_into(directory).await;
            if found.available().is_empty() {
                return Err(NoUi(directory.display().to_string()));
            }
        }
        if found.available().is_empty()
            && let Some(directory) = &settings.ui_static_directory
        {
            found.look_into(directory).await;
        }
        if found.available().is_empty()
            && let Some(package) = registry::installed_package(settings.prefect_package.as_deref()).await
        {
            found.look_into(&package.join("server")).await;
        }
        match found.available().as_slice() {
            [] => tracing::info!("no Prefect UI was found: install the prefect package, or give --ui-dir"),
            there => {
                let names: Vec<&str> = there.iter().map(|generation| generation.name()).collect();
                tracing::info!("the Prefect UI is served at {}/ ({})", found.v1.base, names.join(", "));
            }
        }
        Ok(Arc::new(found))
    }

    /// Takes the builds that lie in `directory` under the names of the package or those of the reference's copies.
    async fn look_into(&mut self, directory: &Path) {
        for (bundle, names) in [(&mut self.v1, ["ui", "v1"]), (&mut self.v2, ["ui-v2", "v2"])] {
            for name in names {
                // Symbolic links are resolved once, so that a file can be seen to lie inside.
                let Ok(path) = tokio::fs::canonicalize(directory.join(name)).await else { continue };
                if tokio::fs::try_exists(path.join(file::INDEX)).await.unwrap_or(false) {
                    bundle.directory = Some(path);
                    break;
                }
            }
        }
    }

    /// The generations that are served.
    pub fn available(&self) -> Vec<Generation> {
        [Generation::V1, Generation::V2].into_iter().filter(|generation| self.base_url(*generation).is_some()).collect()
    }

    /// Which one a browser without a choice of its own gets.
    pub fn default_generation(&self) -> Generation {
        let available = self.available();
        if available.contains(&self.preferred) { self.preferred } else { available.first().copied().unwrap_or(self.preferred) }
    }

    /// Where a generation is served; `None` where it is not.
    pub fn base_url(&self, generation: Generation) -> Option<&str> {
        let bundle = self.bundle(generation);
        bundle.directory.as_ref()?;
        Some(if bundle.base.is_empty() { "/" } else { &bundle.base })
    }

    /// The path of `/ui-settings`.
    pub fn settings_path(&self) -> String {
        format!("{}/ui-settings", self.v1.base)
    }

    fn bundle(&self, generation: Generation) -> &Bundle {
        match generation {
            Generation::V1 => &self.v1,
            Generation::V2 => &self.v2,
        }
    }

    /// Answers what nothing else does: a file of the UI, its start page, a redirect, 404.
    pub async fn answer(self: Arc<Self>, request: Request<Body>) -> Response {
        let (uri, method) = (request.uri(), request.method());
        let path = uri.path();
        if path.strip_suffix('/') == Some(&self.settings_path()) {
            return redirect(self.settings_path(), uri.query());
        }
        let reads = matches!(*method, Method::GET | Method::HEAD);
        if reads
            && navigation::is_html(request.headers())
            && let Some(path) = self.preferred_path(path, request.headers())
        {
            return redirect(path, uri.query());
        }
        let served = [&self.v2, &self.v1].into_iter().find_map(|bundle| {
            let inside = navigation::below(path, &bundle.base)?;
            Some((bundle.directory.as_deref()?, bundle.base.as_str(), inside))
        });
        let Some((directory, base, inside)) = served else { return ApiError::no_route().into_response() };
        let Some(found) = file::find(directory, inside).await else {
            if reads && navigation::accepts_html(request.headers()) {
                return file::send(&directory.join(file::INDEX), base, request.headers()).await;
            }
            return ApiError::no_route().into_response();
        };
        if !reads {
            return ApiError::detail(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed").into_response();
        }
        if found.is_directory && !path.ends_with('/') {
            return redirect(format!("{path}/"), uri.query());
        }
        file::send(&found.path, base, request.headers()).await
    }
}

/// The base paths of both generations, without a slash at the end.
fn bases(setting: &str) -> (String, String) {
    let base = setting.trim_end_matches('/');
    let base = if base.is_empty() || base.starts_with('/') { base.to_owned() } else { format!("/{base}") };
    match base.strip_suffix("/v2") {
        Some(v1) => (v1.to_owned(), base.clone()),
        None => (base.clone(), format!("{base}/v2")),
    }
}

fn redirect(mut location: String, query: Option<&str>) -> Response {
    if let Some(query) = query {
        location.push('?');
        location.push_str(query);
    }
    (StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, location)]).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_generation_lies_below_the_first() {
        for (setting, v1, v2) in [
            ("/", "", "/v2"),
            ("", "", "/v2"),
            ("/v2", "", "/v2"),
            ("/v2/", "", "/v2"),
            ("prefect", "/prefect", "/prefect/v2"),
            ("/prefect/", "/prefect", "/prefect/v2"),
            ("/prefect/v2", "/prefect", "/prefect/v2"),
        ] {
            assert_eq!(bases(setting), (v1.to_owned(), v2.to_owned()), "{setting:?}");
        }
    }
}
