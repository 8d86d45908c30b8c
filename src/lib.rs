//! Praetor
