"""The schemas of this room's tables, one file a subject: who adds one moves no other."""
