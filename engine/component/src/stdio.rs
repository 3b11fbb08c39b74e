//! The standard streams of a guest: what it prints goes to whoever takes it.

use bytes::Bytes;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};

/// How much is taken at once.
const PORTION: usize = 64 << 10;

/// Which stream of a guest something came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Takes what is printed, at once.
pub(crate) trait Take: Clone + Send + Sync + 'static {
    fn take(&self, bytes: Bytes);
}

/// One of a guest's two output streams.
#[derive(Clone)]
pub(crate) struct Output<T>(pub(crate) T);

impl<T> IsTerminal for Output<T> {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl<T: Take> StdoutStream for Output<T> {
    fn async_stream(&self) -> Box<dyn tokio::io::AsyncWrite + Send + Sync> {
        // Only WASI 0.3 asks for this form, and it is not linked.
        Box::new(tokio::io::sink())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

#[async_trait::async_trait]
impl<T: Take> Pollable for Output<T> {
    async fn ready(&mut self) {}
}

impl<T: Take> OutputStream for Output<T> {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.0.take(bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(PORTION)
    }
}
