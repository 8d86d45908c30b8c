//! Routers that know what they serve: axum's, with a description of every operation.

use axum::Router;
use axum::handler::Handler;
use axum::http::Method;
use axum::routing::{self, MethodRouter};

use super::describe::{Describe, Operation};
use super::document::{Described, Schemas};
use crate::app::App;

/// The routes of a resource.
pub struct Routes {
    tag: &'static str,
    router: Router<App>,
    operations: Vec<Described>,
}

impl Routes {
    /// No routes, to merge others into.
    pub fn empty() -> Self {
        Self::tagged("")
    }

    /// No routes; those to come are shown under `tag`.
    pub fn tagged(tag: &'static str) -> Self {
        Self { tag, router: Router::new(), operations: Vec::new() }
    }

    /// Adds the operations of a path.
    #[must_use]
    pub fn route(mut self, path: &'static str, methods: Methods) -> Self {
        let tag = self.tag;
        self.operations.extend(methods.operations.into_iter().map(|MethodOf { method, handler, describe }| Described {
            method,
            path,
            tag,
            handler,
            describe,
        }));
        self.router = self.router.route(path, methods.router);
        self
    }

    /// Adds the routes of another resource, under their own tags.
    #[must_use]
    pub fn merge(mut self, other: Self) -> Self {
        self.router = self.router.merge(other.router);
        self.operations.extend(other.operations);
        self
    }

    /// What serves the routes, and what describes them.
    pub fn into_parts(self) -> (Router<App>, Vec<Described>) {
        (self.router, self.operations)
    }
}

/// The operations of one path.
pub struct Methods {
    router: MethodRouter<App>,
    operations: Vec<MethodOf>,
}

struct MethodOf {
    method: Method,
    handler: &'static str,
    describe: fn(&mut Operation, &mut Schemas),
}

impl MethodOf {
    fn new<H: Describe<T>, T>(method: Method) -> Self {
        Self { method, handler: std::any::type_name::<H>(), describe: H::describe }
    }
}

macro_rules! methods {
    ($($name:ident = $method:ident),* $(,)?) => {
        $(
            #[doc = concat!("Serves `", stringify!($method), "` of a path.")]
            pub fn $name<H: Handler<T, App> + Describe<T>, T: 'static>(handler: H) -> Methods {
                Methods { router: routing::$name(handler), operations: vec![MethodOf::new::<H, T>(Method::$method)] }
            }
        )*

        impl Methods {
            $(
                #[doc = concat!("Serves `", stringify!($method), "` too.")]
                #[must_use]
                pub fn $name<H: Handler<T, App> + Describe<T>, T: 'static>(mut self, handler: H) -> Self {
                    self.router = self.router.$name(handler);
                    self.operations.push(MethodOf::new::<H, T>(Method::$method));
                    self
                }
            )*
        }
    };
}

methods! { get = GET, post = POST, put = PUT, patch = PATCH, delete = DELETE }
