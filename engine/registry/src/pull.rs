//! Manifests and images out of a registry.
//!
//! What is fetched by tag is bound by the digest that the registry announces, what is fetched by
//! digest by that.

use bytes::Bytes;
use cofferdam_types::{Digest, Platform};
use futures::TryStreamExt as _;
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Method, Response};
use serde::Deserialize;

use crate::client::{Client, Operation};
use crate::error::{Error, Problem};
use crate::manifest::{
    Descriptor, Document, MAX_MANIFEST_SIZE, Manifest, RawManifest, detect_media_type, is_manifest,
    select_manifest,
};
use crate::reference::Reference;
use crate::transport::read_limited;

/// The types that we can read.
const ACCEPTED: &str = "application/vnd.oci.image.index.v1+json, \
     application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, \
     application/vnd.docker.distribution.manifest.v2+json";
/// The header by which registries tell a manifest's digest.
const DIGEST_HEADER: &str = "docker-content-digest";
/// Indexes in indexes that are followed.
const MAX_DEPTH: usize = 4;

/// One image of one platform.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// What the reference names: an index, or the manifest itself.
    pub root: RawManifest,
    /// The image's manifest as it is in the registry.
    pub raw_manifest: RawManifest,
    /// The image's manifest.
    pub manifest: Manifest,
    /// The config's bytes, whose digest has been verified.
    pub config: Bytes,
    /// The platform that the config tells. An image that is not behind an index is not
    /// checked against the wanted platform: Docker uses it whatever it is for.
    pub platform: Option<Platform>,
}

impl Client {
    /// Finds out what a reference points at, without fetching it if the registry allows.
    ///
    /// # Errors
    ///
    /// There is no such manifest, or the registry cannot be asked.
    pub async fn resolve(&self, reference: &Reference) -> Result<Descriptor, Error> {
        let mut operation = self.manifest_operation(reference);
        loop {
            match resolve_once(&mut operation, reference).await {
                Ok(descriptor) => return Ok(descriptor),
                Err(problem) => {
                    operation.again(problem).await.map_err(|problem| operation.error(problem))?;
                }
            }
        }
    }

    /// Fetches the manifest or index that a reference points at.
    ///
    /// # Errors
    ///
    /// There is no such manifest, it is not what its digest says, it is larger than
    /// [`MAX_MANIFEST_SIZE`], or the registry cannot be asked.
    pub async fn manifest(&self, reference: &Reference) -> Result<RawManifest, Error> {
        let mut operation = self.manifest_operation(reference);
        loop {
            match get_once(&mut operation, reference).await {
                Ok(manifest) => return Ok(manifest),
                Err(problem) => {
                    operation.again(problem).await.map_err(|problem| operation.error(problem))?;
                }
            }
        }
    }

    /// Fetches the manifest and config of the image that suits `platform` best.
    ///
    /// # Errors
    ///
    /// As [`Client::manifest`]; an index has nothing that suits, or a document is invalid.
    pub async fn image(&self, reference: &Reference, platform: &Platform) -> Result<Image, Error> {
        let root = self.manifest(reference).await?;
        let mut raw = root.clone();
        for _ in 0..MAX_DEPTH {
            let error = |problem| {
                let object = format!("image {}", reference.familiar());
                Error::new(reference.registry(), object, problem)
            };
            let manifest = match raw.parse().map_err(error)? {
                Document::Manifest(manifest) => *manifest,
                Document::Index(index) => {
                    let entry = select_manifest(&index, platform).map_err(error)?;
                    raw = self.child(reference, entry).await?;
                    continue;
                }
            };
            let config = self.small_blob(reference, &manifest.config).await?;
            let platform = config_platform(&config);
            return Ok(Image { root, raw_manifest: raw, manifest, config, platform });
        }
        let problem = Problem::Invalid(format!("more than {MAX_DEPTH} indexes in each other"));
        Err(Error::new(reference.registry(), reference.familiar(), problem))
    }

    /// Fetches a blob that has to fit into memory, such as a config.
    ///
    /// # Errors
    ///
    /// As [`Client::blob`]; the blob is larger than [`MAX_MANIFEST_SIZE`].
    pub async fn small_blob(
        &self,
        reference: &Reference,
        descriptor: &Descriptor,
    ) -> Result<Bytes, Error> {
        if descriptor.size > MAX_MANIFEST_SIZE {
            return Err(Error::new(
                reference.registry(),
                blob_name(reference, descriptor),
                Problem::TooLarge { limit: MAX_MANIFEST_SIZE },
            ));
        }
        match self.whole_blob(reference, descriptor).await {
            // Bytes that were changed on the way are right the next time.
            Err(error) if error.problem.is_wrong_bytes() => {
                self.whole_blob(reference, descriptor).await
            }
            result => result,
        }
    }

    async fn whole_blob(
        &self,
        reference: &Reference,
        descriptor: &Descriptor,
    ) -> Result<Bytes, Error> {
        let mut bytes = Vec::new();
        let mut stream = self.blob(reference, descriptor);
        while let Some(chunk) = stream.try_next().await? {
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes.into())
    }

    /// Fetches a manifest that an index names.
    async fn child(&self, reference: &Reference, entry: &Descriptor) -> Result<RawManifest, Error> {
        let pinned = reference.with_digest(entry.digest);
        let raw = self.manifest(&pinned).await?;
        let fail = |text: String| {
            let object = format!("manifest {}", entry.digest);
            Err(Error::new(reference.registry(), object, Problem::Invalid(text)))
        };
        if raw.descriptor.size != entry.size {
            return fail(format!("{} bytes, the index says {}", raw.descriptor.size, entry.size));
        }
        if is_manifest(&entry.media_type) && raw.descriptor.media_type != entry.media_type {
            let (is, said) = (&raw.descriptor.media_type, &entry.media_type);
            return fail(format!("of type {is:?}, the index says {said:?}"));
        }
        Ok(raw)
    }

    fn manifest_operation(&self, reference: &Reference) -> Operation {
        self.pull_operation(reference, manifest_name(reference))
    }
}

/// What errors call a manifest.
pub(crate) fn manifest_name(reference: &Reference) -> String {
    let separator = if reference.digest().is_some() { '@' } else { ':' };
    format!("manifest {}{separator}{}", reference.repository(), reference.manifest_name())
}

/// What errors call a blob.
pub(crate) fn blob_name(reference: &Reference, descriptor: &Descriptor) -> String {
    format!("blob {}@{}", reference.repository(), descriptor.digest)
}

async fn resolve_once(
    operation: &mut Operation,
    reference: &Reference,
) -> Result<Descriptor, Problem> {
    let response = match request(operation, Method::HEAD, reference).await {
        // The registry does not do HEAD, or does it badly.
        Err(Problem::Status { code: 400 | 405 | 406 | 415 | 501, .. }) => {
            return Ok(get_once(operation, reference).await?.descriptor);
        }
        other => other?,
    };
    let headers = response.headers();
    let size = text_header(headers, "content-length").and_then(|text| text.parse().ok());
    let media_type = content_type(headers).filter(|media_type| is_manifest(media_type));
    let (Some(digest), Some(size), Some(media_type)) = (digest_header(headers), size, media_type)
    else {
        return Ok(get_once(operation, reference).await?.descriptor);
    };
    expect_digest(reference.digest(), digest)?;
    if size > MAX_MANIFEST_SIZE {
        return Err(Problem::TooLarge { limit: MAX_MANIFEST_SIZE });
    }
    Ok(Descriptor::new(media_type, digest, size))
}

async fn get_once(
    operation: &mut Operation,
    reference: &Reference,
) -> Result<RawManifest, Problem> {
    let response = request(operation, Method::GET, reference).await?;
    let announced = digest_header(response.headers());
    let header = content_type(response.headers());
    let bytes = read_limited(response, MAX_MANIFEST_SIZE, operation.patience()).await?;
    let actual = Digest::of(&bytes);
    expect_digest(reference.digest(), actual)?;
    // What the registry announces binds it too: a tag's manifest has no other check.
    expect_digest(announced, actual)?;
    let media_type = detect_media_type(header.as_deref(), &bytes)?;
    let descriptor = Descriptor::new(media_type, actual, bytes.len() as u64);
    Ok(RawManifest { descriptor, bytes })
}

async fn request(
    operation: &mut Operation,
    method: Method,
    reference: &Reference,
) -> Result<Response, Problem> {
    let path = format!("manifests/{}", reference.manifest_name());
    let accepted = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(ACCEPTED))]);
    operation.call(method, &path, accepted).await
}

/// Refuses contents that are not the ones asked for.
pub(crate) fn expect_digest(expected: Option<Digest>, actual: Digest) -> Result<(), Problem> {
    match expected {
        Some(expected) if expected != actual => Err(Problem::WrongDigest { expected, actual }),
        _ => Ok(()),
    }
}

/// The digest that a registry announces, if it is one that we use.
pub(crate) fn digest_header(headers: &HeaderMap) -> Option<Digest> {
    text_header(headers, DIGEST_HEADER)?.parse().ok()
}

fn content_type(headers: &HeaderMap) -> Option<String> {
    let text = text_header(headers, CONTENT_TYPE.as_str())?;
    Some(text.split(';').next().unwrap_or(text).trim().to_ascii_lowercase())
}

fn text_header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// The platform that an image config tells, if it is one.
fn config_platform(config: &[u8]) -> Option<Platform> {
    #[derive(Deserialize)]
    struct Config {
        #[serde(flatten)]
        platform: Platform,
    }
    let platform = serde_json::from_slice::<Config>(config).ok()?.platform;
    (!platform.os.is_empty() && !platform.architecture.is_empty()).then(|| platform.normalized())
}
