-- Writes the rows that win, atomically. A row is one hash: its fields are those of Feast's layout plus the row's order.
-- KEYS: the hash of applied fingerprints, the hash of what was materialized, then one key per row.
-- ARGV: view, order field, time field, key TTL in seconds (0: none), fingerprint of all rows, their stamp, what they cover (us; empty: each
--       up to its own time), number of features F, F field names, then per row: event time in us, revision, serialized time, F values.
-- Returns the number of rows written, or {fingerprint found, fingerprint applied} and then nothing is written.
local keys, args, call, match, sub = KEYS, ARGV, redis.call, string.match, string.sub
local view, order_field, time_field, key_ttl, fingerprint = args[1], args[2], args[3], tonumber(args[4]), args[5]
local stamp, covers, features = tonumber(args[6]), tonumber(args[7]), tonumber(args[8])
local applied = call('HGET', keys[1], view)
if applied and fingerprint ~= applied then return {fingerprint, applied} end
local covered = -math.huge
local found, upto = match(call('HGET', keys[2], view) or '', '^(%d+) (-?%d+)$')
if found and stamp < tonumber(found) then covered = tonumber(upto) end
-- One table for all rows: names stand at odd places, a row's values are put between them.
local fields, last = {order_field, '', time_field, ''}, 4 + 2 * features
for f = 1, features do
  fields[3 + 2 * f] = args[8 + f]
  fields[4 + 2 * f] = ''
end
local tail = ' ' .. fingerprint .. ' ' .. args[6]
local event_text, event_us = '', 0

-- Whether the row is to replace one of this order.
local function wins(stored, revision)
  local us, rev = match(stored, '^(-?%d+) (-?%d+)')
  us = tonumber(us)
  if event_us > us or (event_us == us and tonumber(revision) > tonumber(rev)) then return true end
  -- A row of the same fingerprint and stamp, as a stream's are, has nothing else to decide.
  if sub(stored, -#tail) == tail then return false end
  local of, made = match(stored, '^%S+ %S+ (%S*) ?(%d*)$')
  return (fingerprint == applied and fingerprint ~= of) or (stamp > (tonumber(made) or 0) and us <= (covers or event_us))
end

local at, written = 9 + features, 0
for i = 3, #keys do
  local key, revision = keys[i], args[at + 1]
  if args[at] ~= event_text then -- rows share few times
    event_text = args[at]
    event_us = tonumber(event_text)
  end
  if event_us > covered then
    local stored = call('HGET', key, order_field)
    -- An order without a time is of a row that another writer deleted.
    if not stored or wins(stored, revision) or call('HEXISTS', key, time_field) == 0 then
      fields[2] = event_text .. ' ' .. revision .. tail
      fields[4] = args[at + 2]
      for f = 1, features do fields[4 + 2 * f] = args[at + 2 + f] end
      call('HSET', key, unpack(fields, 1, last))
      if key_ttl > 0 then call('EXPIRE', key, key_ttl) end
      written = written + 1
    end
  end
  at = at + 3 + features
end
return written
