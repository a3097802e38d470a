-- Writes the rows that win, atomically. A row is one hash: its fields are those of Feast's layout plus the row's order.
-- ARGV behind those of row_order.lua: key TTL in seconds (0: none), number of features F, F field names, then per row: event time in us,
-- revision, serialized time, F values. Returns the number of rows written.
local key_ttl, features = tonumber(args[8]), tonumber(args[9])
-- One table for all rows: names stand at odd places, a row's values are put between them.
local fields, last = {order_field, '', time_field, ''}, 4 + 2 * features
for f = 1, features do
  fields[3 + 2 * f] = args[9 + f]
  fields[4 + 2 * f] = ''
end
local at, written = 10 + features, 0
for i = 3, #keys do
  local key, event, revision = keys[i], args[at], args[at + 1]
  if wins(key, event, revision) then
    fields[2] = event .. ' ' .. revision .. tail
    fields[4] = args[at + 2]
    for f = 1, features do fields[4 + 2 * f] = args[at + 2 + f] end
    call('HSET', key, unpack(fields, 1, last))
    if key_ttl > 0 then call('EXPIRE', key, key_ttl) end
    written = written + 1
  end
  at = at + 3 + features
end
return written
