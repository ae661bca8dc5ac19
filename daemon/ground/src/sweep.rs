//! Unwrapped keys that nobody has used of late are wiped.

use std::sync::Arc;

use keyward_unit::Unit;

/// Has a unit forget the private keys that nobody uses.
pub async fn sweep(unit: Arc<Unit>) {
    loop {
        tokio::time::sleep(Unit::SWEEP).await;
        unit.sweep();
    }
}
