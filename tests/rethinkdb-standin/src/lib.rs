//! Test equipment: answers as RethinkDB does, for what the fleet uses of it.
