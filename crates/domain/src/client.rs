//! The address of a client behind proxies: forwarding headers count only when a configured proxy sent them.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

/// A block of addresses such as `10.0.0.0/8`; a single address is a block of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddressBlock {
    address: IpAddr,
    bits: u8,
}

impl AddressBlock {
    /// Whether the address lies in the block. An IPv4 address written as IPv6 is the IPv4 address.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(block), IpAddr::V4(one)) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.bits)).unwrap_or(0);
                u32::from(block) & mask == u32::from(one) & mask
            }
            (IpAddr::V6(block), IpAddr::V6(one)) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.bits)).unwrap_or(0);
                u128::from(block) & mask == u128::from(one) & mask
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }
}

impl FromStr for AddressBlock {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not an address or a block such as 10.0.0.0/8");
        let (address, bits) = text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.map_or(Ok(most), |bits| bits.parse().map_err(|_| wrong()))?;
        if bits <= most { Ok(Self { address, bits }) } else { Err(wrong()) }
    }
}

impl fmt::Display for AddressBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

/// Who is calling: the peer, or what the trusted proxies in front of it say. `forwarded_for` is X-Forwarded-For, in order.
///
/// Read from the right: each proxy appends whom it heard from, so the first address that is not one of ours is the client,
/// and everything left of it is hearsay.
pub fn client_address<'a>(
    peer: IpAddr,
    forwarded_for: impl DoubleEndedIterator<Item = &'a str>,
    trusted: &[AddressBlock],
) -> IpAddr {
    let ours = |address: IpAddr| trusted.iter().any(|block| block.contains(address));
    let mut client = peer.to_canonical();
    let mut hops = forwarded_for.rev();
    while ours(client) {
        match hops.next().and_then(|hop| hop_address(hop.trim())) {
            Some(hop) => client = hop.to_canonical(),
            None => break,
        }
    }
    client
}

/// An address as proxies write it: bare, in brackets, or with a port.
fn hop_address(hop: &str) -> Option<IpAddr> {
    let bare = hop.trim_matches(['[', ']']).parse().ok();
    bare.or_else(|| hop.parse::<SocketAddr>().ok().map(|address| address.ip()))
}

/// The block that one client is taken for when it has no token: a single IPv4 address, a /64 of IPv6 (a customer has one
/// whole /64 and could otherwise have as many buckets as it likes).
pub fn limit_block(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(v4) => IpAddr::V4(Ipv4Addr::from(u32::from(v4))),
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from(u128::from(v6) & (u128::MAX << 64))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn blocks(texts: &[&str]) -> Vec<AddressBlock> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn forwarding_headers_of_strangers_are_hearsay() {
        let client = |peer, hops: &[&str], trusted: &[&str]| {
            client_address(address(peer), hops.iter().copied(), &blocks(trusted)).to_string()
        };
        assert_eq!(client("9.9.9.9", &["1.1.1.1"], &["10.0.0.0/8"]), "9.9.9.9");
        assert_eq!(client("10.0.0.1", &["1.1.1.1", "2.2.2.2", "10.0.0.9"], &["10.0.0.0/8"]), "2.2.2.2");
        assert_eq!(client("10.0.0.1", &[], &["10.0.0.0/8"]), "10.0.0.1");
        assert_eq!(client("10.0.0.1", &["unknown"], &["10.0.0.0/8"]), "10.0.0.1");
        assert_eq!(client("::ffff:10.0.0.1", &["[2001:db8::7]"], &["10.0.0.1"]), "2001:db8::7");
        assert_eq!(client("10.0.0.1", &["1.1.1.1"], &["0.0.0.0/0"]), "1.1.1.1");
        // Some gateways name the port as well.
        assert_eq!(client("10.0.0.1", &["2.2.2.2:51234", "10.0.0.9:443"], &["10.0.0.0/8"]), "2.2.2.2");
        assert_eq!(client("10.0.0.1", &["[2001:db8::7]:51234"], &["10.0.0.1"]), "2001:db8::7");
    }

    #[test]
    fn a_block_that_is_none_is_refused() {
        for wrong in ["", "10.0.0.0/33", "::/129", "10.0.0.0/x", "host/8"] {
            assert!(wrong.parse::<AddressBlock>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_customers_ipv6_addresses_share_one_bucket() {
        assert_eq!(limit_block(address("2001:db8::1")), limit_block(address("2001:db8::ffff:1")));
        assert_ne!(limit_block(address("10.0.0.1")), limit_block(address("10.0.0.2")));
    }
}
