//! Triggers: pure functions of time.
