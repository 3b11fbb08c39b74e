//! One tar header block: POSIX.1-1988 ustar, GNU tar's own format, and the older v7.
//!
//! Layout: IEEE Std 1003.1, pax, "ustar Interchange Format"; GNU tar manual, "Basic Tar Format".

/// Size of a header in bytes; contents are padded to a multiple of it.
pub const BLOCK: usize = 512;

/// The fields of a header as they stand there.
#[derive(Debug)]
pub(crate) struct Header {
    pub name: Vec<u8>,
    pub link: Vec<u8>,
    pub flag: u8,
    pub mode: i64,
    pub uid: i64,
    pub gid: i64,
    pub size: i64,
    /// Seconds.
    pub mtime: i64,
    pub device: (i64, i64),
}

/// Whether a block is the header of an entry: it holds its own checksum, and is not all zero.
#[must_use]
pub fn is_header(block: &[u8; BLOCK]) -> bool {
    if block.iter().all(|byte| *byte == 0) {
        return false;
    }
    let Some(stored) = number(&block[148..156]) else { return false };
    let blanked = |at: usize, byte: u8| if (148..156).contains(&at) { b' ' } else { byte };
    let bytes = || block.iter().enumerate().map(|(at, byte)| blanked(at, *byte));
    let unsigned: i64 = bytes().map(i64::from).sum();
    // Some old programs summed up signed characters; every reader takes both.
    let signed: i64 = bytes().map(|byte| i64::from(byte as i8)).sum();
    stored == unsigned || stored == signed
}

impl Header {
    /// # Errors
    /// Says what is wrong.
    pub(crate) fn parse(block: &[u8; BLOCK]) -> Result<Self, String> {
        if !is_header(block) {
            return Err("header checksum does not match".to_owned());
        }
        let field = |what: &str, from: usize, to: usize| {
            number(&block[from..to]).ok_or_else(|| format!("{what} of the header is not a number"))
        };
        let mut header = Self {
            name: text(&block[..100]).to_vec(),
            link: text(&block[157..257]).to_vec(),
            flag: block[156],
            mode: field("mode", 100, 108)?,
            uid: field("uid", 108, 116)?,
            gid: field("gid", 116, 124)?,
            size: field("size", 124, 136)?,
            mtime: field("mtime", 136, 148)?,
            device: (0, 0),
        };
        match &block[257..265] {
            b"ustar\x0000" => {
                header.device =
                    (field("device major", 329, 337)?, field("device minor", 337, 345)?);
                let prefix = text(&block[345..500]);
                // star keeps times in the prefix's last bytes, and marks that here.
                if &block[508..512] == b"tar\0" && prefix.len() > 130 {
                    return Err("the name's prefix can be read in two ways (star)".to_owned());
                }
                if !prefix.is_empty() {
                    if header.name.is_empty() {
                        return Err("a prefix of no name".to_owned());
                    }
                    header.name = [prefix, b"/", &header.name].concat();
                }
            }
            b"ustar  \0" => {
                header.device =
                    (field("device major", 329, 337)?, field("device minor", 337, 345)?);
                // An old writer put a name's prefix here, and some readers believe it.
                field("access time", 345, 357)?;
                field("change time", 357, 369)?;
            }
            magic if magic.starts_with(b"ustar") => {
                return Err("unknown version of the ustar format".to_owned());
            }
            // Where later formats have a prefix the oldest has nothing; Python takes it for one.
            _ if block[345..500].iter().any(|byte| *byte != 0) => {
                return Err("a header without a format has a prefix".to_owned());
            }
            // And it stops, as at an end, where these are no numbers.
            _ => {
                field("device major", 329, 337)?;
                field("device minor", 337, 345)?;
            }
        }
        Ok(header)
    }
}

/// A text field: up to the first NUL.
fn text(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// A number field: octal digits between blanks, or GNU's big-endian binary with the top bit set.
fn number(field: &[u8]) -> Option<i64> {
    if field[0] & 0x80 != 0 {
        // The top bit is the mark, the next one the sign.
        let negative = field[0] & 0x40 != 0;
        let mut value = i128::from(field[0] & 0x3f) - if negative { 0x40 } else { 0 };
        for byte in &field[1..] {
            value = value << 8 | i128::from(*byte);
        }
        return value.try_into().ok();
    }
    let start = field.iter().position(|byte| *byte != b' ').unwrap_or(field.len());
    let digits = &field[start..];
    let end = digits.iter().position(|byte| matches!(byte, b' ' | 0)).unwrap_or(digits.len());
    let (digits, rest) = digits.split_at(end);
    if !rest.iter().all(|byte| matches!(byte, b' ' | 0)) {
        return None;
    }
    digits.iter().try_fold(0_i64, |value, byte| match byte {
        b'0'..=b'7' => Some(value << 3 | i64::from(byte - b'0')),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        let cases: &[(&[u8], Option<i64>)] = &[
            (b"0000644\0", Some(0o644)),
            (b"   644 \0", Some(0o644)),
            (b"644 \0\0\0\0", Some(0o644)),
            (b"\0\0\0\0\0\0\0\0", Some(0)),
            (b"        ", Some(0)),
            (b"77777777", Some(0o77_777_777)),
            (b"0000648\0", None),
            (b"64\x004\0\0\0\0", None),
            (b"-000644\0", None),
            (b"\x80\0\0\0\0\0\x01\0", Some(256)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff", Some(-1)),
            (b"\x80\0\0\0\x40\0\0\0\0\0\0\0", Some(1 << 62)),
            (b"\x80\0\0\x01\0\0\0\0\0\0\0\0", None),
            (b"\xbf\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", None),
        ];
        for (field, expected) in cases {
            assert_eq!(number(field), *expected, "{field:?}");
        }
    }
}
