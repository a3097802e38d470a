-- Writes the rows that win, atomically. A row is one hash: its fields are those of Feast's layout plus the row's order.
-- KEYS: the hash of applied fingerprints, the hash of what was materialized, then one key per row.
-- ARGV: view, order field, time field, key TTL in seconds (0: none), fingerprint of all rows, their stamp, what they cover (us; empty: each
--       up to its own time), number of features F, F field names, then per row: event time in us, revision, serialized time, F values.
-- Returns the number of rows written, or {fingerprint found, fingerprint applied} and then nothing is written.
local view, order_field, time_field, key_ttl, fingerprint = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[5]
local stamp, covers, features, call = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8]), redis.call
local applied = call('HGET', KEYS[1], view)
if applied and fingerprint ~= applied then return {fingerprint, applied} end
local covered = -math.huge
local found, upto = string.match(call('HGET', KEYS[2], view) or '', '^(%d+) (-?%d+)$')
if found and stamp < tonumber(found) then covered = tonumber(upto) end
-- One table for all rows: names stand at odd places, a row's values are put between them.
local fields, last = {order_field, '', time_field, ''}, 4 + 2 * features
for f = 1, features do
  fields[3 + 2 * f] = ARGV[8 + f]
  fields[4 + 2 * f] = ''
end
local tail = ' ' .. fingerprint .. ' ' .. ARGV[6]
local at, written = 9 + features, 0
for i = 3, #KEYS do
  local key, event_us, revision = KEYS[i], tonumber(ARGV[at]), tonumber(ARGV[at + 1])
  local stored = call('HMGET', key, order_field, time_field)
  local wins = event_us > covered
  if wins and stored[1] and stored[2] then
    local us, rev, of, made = string.match(stored[1], '^(-?%d+) (-?%d+) (%S*) ?(%d*)$')
    us, rev, made = tonumber(us), tonumber(rev), tonumber(made) or 0
    wins = event_us > us or (event_us == us and revision > rev)
      or (fingerprint == applied and fingerprint ~= of)
      or (stamp > made and us <= (covers or event_us))
  end
  if wins then
    fields[2] = ARGV[at] .. ' ' .. ARGV[at + 1] .. tail
    fields[4] = ARGV[at + 2]
    for f = 1, features do fields[4 + 2 * f] = ARGV[at + 2 + f] end
    call('HSET', key, unpack(fields, 1, last))
    if key_ttl > 0 then call('EXPIRE', key, key_ttl) end
    written = written + 1
  end
  at = at + 3 + features
end
return written
