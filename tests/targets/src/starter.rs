//! Orders of the daemon to its starter. An accepted order has the same packet.

use std::fs::File;

use keyward::serve::starter::Order;

/// Feeds an input to the decoder, without a descriptor and with one.
pub fn run(bytes: &[u8]) {
    let null = File::open("/dev/null").expect("/dev/null");
    let orders = [Order::parse(bytes, None), Order::parse(bytes, Some(null.into()))];
    let accepted = orders.iter().flatten().inspect(|order| assert_eq!(order.packet().0, bytes)).count();
    assert!(accepted < 2, "an order has a descriptor, or has none");
}
