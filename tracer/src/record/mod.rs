//! Recorded event streams: written by `capture --record`, read by `report`.
