//! Triggers: pure functions of time.

/// Placeholder
#[derive(Debug)]
pub struct TriggerError;
impl std::fmt::Display for TriggerError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("x")
    }
}
impl std::error::Error for TriggerError {}
