-- The rule that decides between a row and the stored one of its key: what the scripts that write rows begin with.
-- KEYS: the hash of applied fingerprints, the hash of what was materialized, then one key per row.
-- ARGV: view, order field, time field, fingerprint of all rows, their stamp, what they cover (us; empty: each up to its own time), who writes
-- (empty: who is not asked), and more.
-- Ends with {owner} where the rows are another's, with {fingerprint found, fingerprint applied} where another graph is applied.
local keys, args, call, match, sub = KEYS, ARGV, redis.call, string.match, string.sub
local view, order_field, time_field, fingerprint = args[1], args[2], args[3], args[4]
local stamp, covers = tonumber(args[5]), tonumber(args[6])
if args[7] ~= '' then
  local owner = call('HGET', keys[1], '')
  if owner and match(owner, '^%S*') ~= args[7] then return {owner} end
end
local applied = call('HGET', keys[1], view)
if applied and fingerprint ~= applied then return {fingerprint, applied} end
local covered = -math.huge
local found, upto = match(call('HGET', keys[2], view) or '', '^(%d+) (-?%d+)$')
if found and stamp < tonumber(found) then covered = tonumber(upto) end
local tail = ' ' .. fingerprint .. ' ' .. args[5]
local event_text, event_us = '', 0
local bare_time = 17 -- the most bytes of a time alone: two fields of 1 byte, numbers of 10 and 5; a packed row before it is longer

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

-- The microseconds of a serialized Timestamp that has nothing before it.
local function us_of(data)
  local numbers, at = {0, 0}, 1
  while at <= #data do
    local field, value, inverse, scale, first, byte = math.floor(data:byte(at) / 8), 0, 0, 1, at
    repeat
      at = at + 1
      byte = data:byte(at) or 0
      value, inverse, scale = value + byte % 128 * scale, inverse + (127 - byte % 128) * scale, scale * 128
    until byte < 128 or at == first + 9
    -- Ten bytes are of a number below zero; of all its bits a float would keep the upper ones alone.
    if byte >= 128 then
      at, value = at + 1, -inverse - 1
    end
    numbers[field] = value
    at = at + 1
  end
  return numbers[1] * 1000000 + math.floor(numbers[2] / 1000)
end

-- Whether a row of this key, event time (us) and revision is to be written.
local function wins(key, event, revision)
  if event ~= event_text then -- rows share few times
    event_text = event
    event_us = tonumber(event)
  end
  if event_us <= covered then return false end
  -- Without a time there is no row: another writer deleted it.
  local length = call('HSTRLEN', key, time_field)
  if length == 0 then return true end
  local stored = call('HGET', key, order_field)
  if length <= bare_time then
    local us = us_of(call('HGET', key, time_field))
    -- Another time than the order's is that of another writer's row: stock Feast's, which is of no graph and below all of ours of its time.
    if not stored or tonumber(match(stored, '^-?%d+')) ~= us then stored = string.format('%.0f', us) .. ' -1 ' end
  end
  return not stored or replaces(stored, revision)
end

