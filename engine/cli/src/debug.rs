//! The commands of `cofferdam debug`.

use std::io::{self, Read as _, Write as _};
use std::path::Path;

use cofferdam_llb::{Definition, to_json};

use crate::error::Error;

/// `cofferdam debug dump-llb`: a definition as JSON on standard output.
///
/// # Errors
/// When the file cannot be read or is no definition.
pub fn dump_llb(file: &Path) -> Result<(), Error> {
    let mut bytes = Vec::new();
    let read = match file == Path::new("-") {
        true => io::stdin().read_to_end(&mut bytes).map(drop),
        false => std::fs::read(file).map(|read| bytes = read),
    };
    let of_file = |action, source| Error::File { action, path: file.to_owned(), source };
    read.map_err(|source| of_file("read the definition", source))?;
    let text = show(&bytes)
        .map_err(|source| Error::Definition { name: file.display().to_string(), source })?;
    match io::stdout().write_all(text.as_bytes()) {
        // As with `| head`: the reader has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(|source| of_file("print", source)),
    }
}

fn show(bytes: &[u8]) -> Result<String, cofferdam_llb::Error> {
    let json = to_json(&Definition::decode(bytes)?)?;
    Ok(format!("{json:#}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn definitions_become_json() {
        assert_eq!(show(b"").expect("an empty definition is one"), "[]\n");
        // Field 1 of pb.Definition: one op, an empty message.
        let text = show(&[0x0a, 0x00]).expect("an op");
        assert!(text.starts_with("[\n  {\n    \"digest\": \"sha256:e3b0c442"), "{text}");
        assert!(show(b"\xff\xff").is_err());
    }
}
