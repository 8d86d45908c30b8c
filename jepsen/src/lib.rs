//! Fault injection for Praetor.
