-- Writes the rows that win, atomically. A row is one hash: its fields are those of Feast's layout plus the row's order.
-- KEYS: the hash of applied fingerprints, then one key per row.
-- ARGV: view, order field, time field, key TTL in seconds (0: none), number of features F, F field names,
--       then per row: event time in us, revision, fingerprint, serialized time, F serialized values.
-- Returns the number of rows written, or {fingerprint found, fingerprint applied} and then nothing is written.
local view, order_field, time_field, key_ttl, features = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local first, width = 5 + features, 4 + features
local applied = redis.call('HGET', KEYS[1], view)
if applied then
  for i = 2, #KEYS do
    local fingerprint = ARGV[first + (i - 2) * width + 3]
    if fingerprint ~= applied then return {fingerprint, applied} end
  end
end
local written = 0
for i = 2, #KEYS do
  local at = first + (i - 2) * width
  local event_us, revision, fingerprint = tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2]), ARGV[at + 3]
  local stored = redis.call('HMGET', KEYS[i], order_field, time_field)
  local wins = true
  if stored[1] and stored[2] then
    local us, rev, print = string.match(stored[1], '^(-?%d+) (-?%d+) (.*)$')
    us, rev = tonumber(us), tonumber(rev)
    if event_us ~= us then
      wins = event_us > us
    elseif revision ~= rev then
      wins = revision > rev
    else
      wins = fingerprint ~= print and fingerprint == applied
    end
  end
  if wins then
    local order = ARGV[at + 1] .. ' ' .. ARGV[at + 2] .. ' ' .. fingerprint
    local fields = {order_field, order, time_field, ARGV[at + 4]}
    for f = 1, features do
      fields[#fields + 1] = ARGV[5 + f]
      fields[#fields + 1] = ARGV[at + 4 + f]
    end
    redis.call('HSET', KEYS[i], unpack(fields))
    if key_ttl > 0 then redis.call('EXPIRE', KEYS[i], key_ttl) end
    written = written + 1
  end
end
return written
