//! The addresses that steps are given: which range of private ones does not get in the host's way,
//! and which of it are tried.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

/// A range of IPv4 addresses, `10.0.0.0/8`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subnet {
    address: u32,
    length: u8,
}

/// What a subnet for steps has to be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a subnet for steps: expected ADDRESS/LENGTH, with a length of 8 to 28")]
pub struct ParseSubnetError(String);

/// Ranges of RFC 1918 and, at last, RFC 2544 that are seldom used: not Docker's, podman's, nor
/// those of the usual Kubernetes and home networks.
pub const CANDIDATES: [Subnet; 4] = [
    Subnet { address: u32::from_be_bytes([10, 199, 0, 0]), length: 16 },
    Subnet { address: u32::from_be_bytes([172, 27, 0, 0]), length: 16 },
    Subnet { address: u32::from_be_bytes([192, 168, 199, 0]), length: 24 },
    Subnet { address: u32::from_be_bytes([198, 18, 0, 0]), length: 16 },
];

impl Subnet {
    /// Makes the range of the addresses that have their first `length` bits in common with one.
    pub fn new(address: Ipv4Addr, length: u8) -> Self {
        let length = length.min(32);
        let mut subnet = Self { address: 0, length };
        subnet.address = address.to_bits() & subnet.mask();
        subnet
    }

    /// Returns the bits that all its addresses share.
    pub fn mask(self) -> u32 {
        u32::MAX.checked_shl(32 - u32::from(self.length)).unwrap_or(0)
    }

    /// Returns its first address.
    pub fn address(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.address)
    }

    /// Returns whether it has every address, as the destination of a default route has.
    pub fn is_everything(self) -> bool {
        self.length == 0
    }

    /// Returns whether it has an address.
    pub fn contains(self, address: Ipv4Addr) -> bool {
        address.to_bits() & self.mask() == self.address
    }

    /// Returns whether it has addresses in common with another one.
    pub fn overlaps(self, other: Self) -> bool {
        self.contains(other.address()) || other.contains(self.address())
    }

    /// Returns the address for a step by its number within the subnet, if steps may have it.
    pub fn step_address(self, number: u32) -> Option<Ipv4Addr> {
        let address = Ipv4Addr::from_bits(self.address | (number & !self.mask()));
        // Some programs take these for a network's own and its broadcast address, whatever the mask.
        (!matches!(address.octets()[3], 0 | 255)).then_some(address)
    }
}

impl FromStr for Subnet {
    type Err = ParseSubnetError;

    fn from_str(text: &str) -> Result<Self, ParseSubnetError> {
        let parse = || {
            let (address, length) = text.split_once('/')?;
            let length = length.parse().ok().filter(|length| (8..=28).contains(length))?;
            Some(Self::new(address.parse().ok()?, length))
        };
        parse().ok_or_else(|| ParseSubnetError(text.to_owned()))
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address(), self.length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subnet(text: &str) -> Subnet {
        text.parse().expect("it is one")
    }

    #[test]
    fn subnets_are_checked() {
        assert_eq!(subnet("10.1.2.3/8").to_string(), "10.0.0.0/8");
        for text in ["", "10.0.0.0", "10.0.0.0/7", "10.0.0.0/29", "10.0.0/8", "::1/20", "a/9"] {
            assert!(text.parse::<Subnet>().is_err(), "{text}");
        }
    }

    #[test]
    fn overlaps_are_seen_either_way() {
        let (all, wide, narrow) =
            (Subnet::new(Ipv4Addr::UNSPECIFIED, 0), subnet("10.0.0.0/8"), subnet("10.7.0.0/16"));
        assert!(all.overlaps(narrow) && narrow.overlaps(all));
        assert!(wide.overlaps(narrow) && narrow.overlaps(wide));
        assert!(!narrow.overlaps(subnet("10.8.0.0/16")));
        let host = Subnet::new(Ipv4Addr::new(10, 7, 0, 9), 32);
        assert!(host.overlaps(narrow) && !host.overlaps(subnet("10.7.1.0/24")));
    }

    #[test]
    fn addresses_stay_within() {
        let small = subnet("192.168.7.16/28");
        assert_eq!(small.step_address(1), Some(Ipv4Addr::new(192, 168, 7, 17)));
        assert_eq!(small.step_address(u32::MAX), Some(Ipv4Addr::new(192, 168, 7, 31)));
        assert_eq!(subnet("10.0.0.0/8").step_address(0x100), None);
        assert_eq!(subnet("10.0.0.0/8").step_address(0x1ff), None);
        assert!(CANDIDATES.iter().all(|subnet| subnet.to_string().parse() == Ok(*subnet)));
    }
}
