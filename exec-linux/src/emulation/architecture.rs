//! The processor architectures that QEMU can stand in for: their names in OCI and QEMU, and how
//! the kernel tells their programs.

use cofferdam_types::Platform;

/// A processor architecture.
#[derive(Debug, PartialEq, Eq)]
pub struct Architecture {
    /// OCI's name, which is Go's.
    pub name: &'static str,
    /// QEMU's name.
    pub qemu: &'static str,
    bits: u8,
    order: Order,
    /// `e_machine` of elf(5).
    machine: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Little,
    Big,
}

const fn architecture(
    name: &'static str,
    qemu: &'static str,
    bits: u8,
    order: Order,
    machine: u16,
) -> Architecture {
    Architecture { name, qemu, bits, order, machine }
}

/// All of them. The numbers are those of the kernel's `elf-em.h`.
pub static ARCHITECTURES: [Architecture; 13] = [
    architecture("amd64", "x86_64", 64, Order::Little, 62),
    architecture("386", "i386", 32, Order::Little, 3),
    architecture("arm64", "aarch64", 64, Order::Little, 183),
    architecture("arm", "arm", 32, Order::Little, 40),
    architecture("ppc64le", "ppc64le", 64, Order::Little, 21),
    architecture("ppc64", "ppc64", 64, Order::Big, 21),
    architecture("s390x", "s390x", 64, Order::Big, 22),
    architecture("riscv64", "riscv64", 64, Order::Little, 243),
    architecture("loong64", "loongarch64", 64, Order::Little, 258),
    architecture("mips64le", "mips64el", 64, Order::Little, 8),
    architecture("mips64", "mips64", 64, Order::Big, 8),
    architecture("mipsle", "mipsel", 32, Order::Little, 8),
    architecture("mips", "mips", 32, Order::Big, 8),
];

/// How many bytes of a program tell its architecture.
pub const HEADER: usize = 20;
/// `ET_EXEC` and `ET_DYN` of elf(5): programs, and programs that can be anywhere in memory.
const TYPES: [u8; 2] = [2, 3];

impl Architecture {
    /// The architecture of a platform, if it is known.
    pub fn of(platform: &Platform) -> Option<&'static Self> {
        Self::named(&platform.architecture)
    }

    /// The architecture with OCI's name.
    pub fn named(name: &str) -> Option<&'static Self> {
        ARCHITECTURES.iter().find(|known| known.name == name)
    }

    /// The architecture that a program is for, by its first bytes.
    pub fn of_program(header: &[u8]) -> Option<&'static Self> {
        ARCHITECTURES.iter().find(|known| known.is_of(header))
    }

    /// Whether a program with these first bytes is for this architecture.
    pub fn is_of(&self, header: &[u8]) -> bool {
        let (magic, mask) = self.magic();
        let same = |((byte, magic), mask): ((&u8, u8), u8)| byte & mask == magic;
        header.len() >= HEADER && header.iter().zip(magic).zip(mask).all(same)
    }

    /// The first bytes of its programs, and which of their bits count; bits that do not are zero.
    pub fn magic(&self) -> ([u8; HEADER], [u8; HEADER]) {
        let (mut magic, mut mask) = ([0; HEADER], [0; HEADER]);
        let (class, data) = (self.bits / 32, if self.order == Order::Little { 1 } else { 2 });
        magic[..7].copy_from_slice(&[0x7f, b'E', b'L', b'F', class, data, 1]);
        mask[..7].fill(0xff);
        // The types differ in one bit. The bytes from 7 on say which system's calling conventions
        // are meant, which has nothing to do with the processor.
        let kind = u16::from(TYPES[0]);
        let kind_mask = !u16::from(TYPES[0] ^ TYPES[1]);
        let bytes = |number: u16| match self.order {
            Order::Little => number.to_le_bytes(),
            Order::Big => number.to_be_bytes(),
        };
        magic[16..18].copy_from_slice(&bytes(kind));
        mask[16..18].copy_from_slice(&bytes(kind_mask));
        magic[18..20].copy_from_slice(&bytes(self.machine));
        mask[18..20].fill(0xff);
        (magic, mask)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_told_by_its_first_bytes() {
        let own = std::fs::read("/proc/self/exe").expect("the test can read itself");
        let found = Architecture::of_program(&own).map(|found| found.name);
        assert_eq!(found, Some(Platform::host().architecture.as_str()));
        assert_eq!(Architecture::of_program(b"\x7fELF"), None);
        assert_eq!(Architecture::of_program(&[b'#'; 64]), None);
        for one in &ARCHITECTURES {
            let (magic, mask) = one.magic();
            assert!(magic.iter().zip(mask).all(|(magic, mask)| magic & !mask == 0));
            let found = Architecture::of_program(&magic).expect("it is in the table");
            assert_eq!(found.name, one.name);
        }
    }

    #[test]
    fn the_magic_is_the_one_that_distributions_register() {
        let hex = |bytes: [u8; HEADER]| bytes.map(|byte| format!("{byte:02x}")).concat();
        let show = |name| {
            let (magic, mask) = Architecture::named(name).expect("it is known").magic();
            (hex(magic), hex(mask))
        };
        let (magic, mask) = show("arm64");
        assert_eq!(magic, "7f454c460201010000000000000000000200b700");
        assert_eq!(mask, "ffffffffffffff000000000000000000feffffff");
        let (magic, mask) = show("s390x");
        assert_eq!(magic, "7f454c4602020100000000000000000000020016");
        assert_eq!(mask, "ffffffffffffff000000000000000000fffeffff");
    }
}
