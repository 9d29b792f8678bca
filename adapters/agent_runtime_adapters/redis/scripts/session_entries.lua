#!lua flags=no-writes
local session = find(here)
local run = session and run_of(session, ARGV[4])
if not run then return {} end
local entries = {}
for number = 1, run.entries do entries[number] = entry_of(session, ARGV[4], number) end
return entries
