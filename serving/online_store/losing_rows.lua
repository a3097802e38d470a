-- Which rows would lose; nothing is written. ARGV behind those of row_order.lua: per row event time in us, revision.
-- Returns their numbers, from 0 up.
local at, losing = 8, {}
for i = 3, #keys do
  if not wins(keys[i], args[at], args[at + 1]) then losing[#losing + 1] = i - 3 end
  at = at + 2
end
return losing
