-- The rule that decides between a row and the stored one of its key: what the scripts that write rows begin with.
-- KEYS: the hash of applied fingerprints, the hash of what was materialized, then one key per row.
-- ARGV: view, order field, time field, fingerprint of all rows, their stamp, what they cover (us; empty: each up to its own time), and more.
-- Ends with {fingerprint found, fingerprint applied} where another graph is applied.
local keys, args, call, match, sub = KEYS, ARGV, redis.call, string.match, string.sub
local view, order_field, time_field, fingerprint = args[1], args[2], args[3], args[4]
local stamp, covers = tonumber(args[5]), tonumber(args[6])
local applied = call('HGET', keys[1], view)
if applied and fingerprint ~= applied then return {fingerprint, applied} end
local covered = -math.huge
local found, upto = match(call('HGET', keys[2], view) or '', '^(%d+) (-?%d+)$')
if found and stamp < tonumber(found) then covered = tonumber(upto) end
local tail = ' ' .. fingerprint .. ' ' .. args[5]
local event_text, event_us = '', 0

-- Whether the row is to replace one of this order.
local function replaces(stored, revision)
  local us, rev = match(stored, '^(-?%d+) (-?%d+)')
  us = tonumber(us)
  if event_us > us or (event_us == us and tonumber(revision) > tonumber(rev)) then return true end
  -- A row of the same fingerprint and stamp, as a stream's are, has nothing else to decide.
  if sub(stored, -#tail) == tail then return false end
  local of, made = match(stored, '^%S+ %S+ (%S*) ?(%d*)$')
  return (fingerprint == applied and fingerprint ~= of) or (stamp > (tonumber(made) or 0) and us <= (covers or event_us))
end

-- Whether a row of this key, event time (us) and revision is to be written.
local function wins(key, event, revision)
  if event ~= event_text then -- rows share few times
    event_text = event
    event_us = tonumber(event)
  end
  if event_us <= covered then return false end
  local stored = call('HGET', key, order_field)
  -- An order without a time is of a row that another writer deleted.
  return not stored or replaces(stored, revision) or call('HEXISTS', key, time_field) == 0
end

