-- Drops the rows that a materialization should have replaced, each atomically with the comparison.
-- KEYS: the hash of applied fingerprints, then one key per row.
-- ARGV: view, order field, first event time (us), last event time (us), stamp, first stamp, 1 to count only, who drops (empty: who is not
-- asked), then the fields of a row.
-- Returns their number; {owner} where the rows are another's.
if ARGV[8] ~= '' then
  local owner = redis.call('HGET', KEYS[1], '')
  if owner and string.match(owner, '^%S*') ~= ARGV[8] then return {owner} end
end
local applied = redis.call('HGET', KEYS[1], ARGV[1])
local first, last, stamp, since, count = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6]), 0
for i = 2, #KEYS do
  local stored = redis.call('HGET', KEYS[i], ARGV[2])
  if stored then
    local us, _, of, made = string.match(stored, '^(-?%d+) (-?%d+) (%S*) ?(%d*)$')
    us, made = tonumber(us), tonumber(made) or 0
    if (first <= us and us <= last and since <= made and made < stamp) or (since == 0 and applied and of ~= applied) then
      count = count + 1
      if ARGV[7] ~= '1' then redis.call('HDEL', KEYS[i], unpack(ARGV, 9)) end
    end
  end
end
return count
