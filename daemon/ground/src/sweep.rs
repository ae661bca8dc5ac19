//! Wipes unwrapped keys that have not been used for a while.

use std::sync::Arc;

use keyward_unit::Unit;

/// Removes unused private keys from the memory of a unit, at regular times. Never returns.
pub async fn sweep(unit: Arc<Unit>) {
    loop {
        tokio::time::sleep(Unit::SWEEP).await;
        unit.sweep();
    }
}
