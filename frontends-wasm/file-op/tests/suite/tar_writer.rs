//! A tar writer that writes whatever it is told, right or wrong.

use std::io::Write as _;

/// One header and its contents.
#[derive(Clone)]
pub struct Item {
    pub name: Vec<u8>,
    pub link: Vec<u8>,
    pub flag: u8,
    pub mode: u32,
    pub uid: Vec<u8>,
    pub size: Option<Vec<u8>>,
    pub mtime: Vec<u8>,
    pub device: (u32, u32),
    pub magic: [u8; 8],
    pub prefix: Vec<u8>,
    pub data: Vec<u8>,
}

pub fn item(flag: char, name: &str) -> Item {
    Item {
        name: name.into(),
        link: Vec::new(),
        flag: flag as u8,
        mode: if flag == '5' { 0o755 } else { 0o644 },
        uid: b"0000000\0".to_vec(),
        size: None,
        mtime: b"00000000005\0".to_vec(),
        device: (0, 0),
        magic: *b"ustar\x0000",
        prefix: Vec::new(),
        data: Vec::new(),
    }
}

pub fn file(name: &str, data: &str) -> Item {
    Item { data: data.into(), ..item('0', name) }
}

pub fn dir(name: &str) -> Item {
    item('5', name)
}

pub fn link(flag: char, name: &str, target: &str) -> Item {
    Item { link: target.into(), ..item(flag, name) }
}

/// An extended header: PAX (`x`, `g`) or a GNU long name (`L`, `K`).
pub fn extension(flag: char, data: impl Into<Vec<u8>>) -> Item {
    Item { data: data.into(), ..item(flag, "ext") }
}

pub fn pax(records: &[(&str, &str)]) -> Item {
    let mut data = String::new();
    for (key, value) in records {
        let rest = key.len() + value.len() + 3;
        let mut length = rest + 1;
        while length != rest + length.to_string().len() {
            length += 1;
        }
        data += &format!("{length} {key}={value}\n");
    }
    extension('x', data)
}

fn field(block: &mut [u8], at: usize, value: &[u8]) {
    block[at..at + value.len()].copy_from_slice(value);
}

impl Item {
    pub fn bytes(&self) -> Vec<u8> {
        let mut block = [0; 512];
        field(&mut block, 0, &self.name);
        field(&mut block, 100, format!("{:07o}\0", self.mode).as_bytes());
        field(&mut block, 108, &self.uid);
        field(&mut block, 116, b"0000000\0");
        let size = format!("{:011o}\0", self.data.len()).into_bytes();
        field(&mut block, 124, self.size.as_ref().unwrap_or(&size));
        field(&mut block, 136, &self.mtime);
        block[156] = self.flag;
        field(&mut block, 157, &self.link);
        field(&mut block, 257, &self.magic);
        field(
            &mut block,
            329,
            format!("{:07o}\0{:07o}\0", self.device.0, self.device.1).as_bytes(),
        );
        field(&mut block, 345, &self.prefix);
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        field(&mut block, 148, format!("{sum:06o}\0 ").as_bytes());
        let mut out = block.to_vec();
        out.extend_from_slice(&self.data);
        out.resize(out.len().next_multiple_of(512), 0);
        out
    }
}

/// The items without the end of the archive.
pub fn open_tar(items: &[Item]) -> Vec<u8> {
    items.iter().flat_map(Item::bytes).collect()
}

pub fn tar(items: &[Item]) -> Vec<u8> {
    let mut out = open_tar(items);
    out.resize(out.len() + 1024, 0);
    out
}

pub fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(data).expect("memory takes all");
    encoder.finish().expect("memory takes all")
}

pub fn bzip2(data: &[u8]) -> Vec<u8> {
    let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    encoder.write_all(data).expect("memory takes all");
    encoder.finish().expect("memory takes all")
}

pub fn xz(data: &[u8]) -> Vec<u8> {
    let options = lzma_rust2::XzOptions::with_preset(1);
    let mut writer = lzma_rust2::XzWriter::new(Vec::new(), options).expect("options are valid");
    writer.write_all(data).expect("memory takes all");
    writer.finish().expect("memory takes all")
}

pub fn zstd(data: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(data, ruzstd::encoding::CompressionLevel::Fastest)
}
