//! OCI distribution: what is in registries, and how to get it out and in.
//!
//! Over `reqwest`: references as Docker reads them, credentials, tokens, mirrors, retries,
//! transfers that are resumed in both directions, and the rule that no byte is handed on as
//! complete before its size and digest have been verified.
//!
//! This crate does not know layers, LLB or the store, and gets everything passed in: it
//! looks neither at the environment nor at the home directory. (The HTTP client underneath
//! does take a proxy from the environment, except for registries on this machine.)

mod auth;
mod blob;
mod client;
mod credentials;
mod docker_config;
mod error;
mod host;
mod hosts;
mod manifest;
mod pull;
mod push;
mod reference;
mod retry;
mod transport;
mod upload;
mod web;

pub use blob::BlobStream;
pub use client::{Client, ClientConfig};
pub use credentials::{Anonymous, Credential, Credentials, CredentialsError, Secret};
pub use docker_config::DockerConfig;
pub use error::{Error, ErrorKind, Problem};
pub use hosts::{HostConfig, Mirror, ParseMirrorError};
pub use manifest::{
    Descriptor, Document, Index, MAX_MANIFEST_SIZE, Manifest, RawManifest, is_attestation,
    media_type, parse_document, select_manifest,
};
pub use pull::Image;
pub use push::{BlobSource, Pushed};
pub use reference::{ParseReferenceError, Reference, ReferenceProblem};
pub use retry::RetryPolicy;
pub use web::{
    WebAnswer, WebError, WebFailure, WebHead, WebRequest, WebSink, http_date, without_secrets,
};
