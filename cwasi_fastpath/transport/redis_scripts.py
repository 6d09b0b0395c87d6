"""What a Redis server does with a stream in one step: scripts for it, see redis_stream for what they are for."""

LAST_ID = f"{2**64 - 1}-{2**64 - 1}"
"""A receiver that leaves for good puts an entry with the last possible id: the server refuses all that come after."""

# What the scripts share. Numbers in Lua are exact up to 2^53.
_COMMON = f"""
local key, last_id = KEYS[1], '{LAST_ID}'
local function field(reply, name)
  for i = 1, #reply, 2 do if reply[i] == name then return reply[i + 1] end end
end
local function halves(id)
  local epoch, seq = string.match(id, '(%d+)-(%d+)')
  return tonumber(epoch), tonumber(seq)
end
local function joined(epoch, seq) return string.format('%.0f-%.0f', epoch, seq) end
local function now()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end
local function exists() return redis.call('EXISTS', key) == 1 end
-- The last id in use. XINFO STREAM would tell, and copy two whole messages for it; a group that begins there tells too.
local function newest()
  redis.call('XGROUP', 'CREATE', key, 'newest', '$')
  local id
  for _, row in ipairs(redis.call('XINFO', 'GROUPS', key)) do
    if field(row, 'name') == 'newest' then id = field(row, 'last-delivered-id') end
  end
  redis.call('XGROUP', 'DESTROY', key, 'newest')
  return id
end
local function groups()
  local found = {{}}
  for _, row in ipairs(redis.call('XINFO', 'GROUPS', key)) do
    local group = {{name = field(row, 'name'), delivered = field(row, 'last-delivered-id')}}
    if field(row, 'pending') > 0 then group.oldest = redis.call('XPENDING', key, group.name)[2] end
    table.insert(found, group)
  end
  return found
end
-- Removes what all have taken; the lowest id that somebody has not.
local function trim(found)
  local epoch, seq
  for _, group in ipairs(found) do
    local e, s = halves(group.oldest or group.delivered)
    if not group.oldest then s = s + 1 end
    if not epoch or e < epoch or (e == epoch and s < seq) then epoch, seq = e, s end
  end
  if not epoch then return '0-0' end
  redis.call('XTRIM', key, 'MINID', joined(epoch, seq))
  return joined(epoch, seq)
end
local function keep(lease)
  if lease > 0 then redis.call('PEXPIRE', key, lease) else redis.call('PERSIST', key) end
end
local function open(readers, lease)
  local found, start = {{}}, '0-0'
  if exists() then
    start = newest()   -- a receiver that was not expected before gets what comes from now on
    for _, group in ipairs(groups()) do found[string.match(group.name, '^%d+')] = group end
  end
  for reader = 0, readers - 1 do
    local number = string.format('%d', reader)
    if not found[number] then
      redis.call('XGROUP', 'CREATE', key, number .. '.0', start, 'MKSTREAM')
      found[number] = {{name = number .. '.0', delivered = start}}
    end
  end
  keep(lease)
  return found
end
"""

# ARGV: readers, lease. The id of the mark.
OPEN_SENDER = _COMMON + """
if exists() and newest() == last_id then return '0-0' end
open(tonumber(ARGV[1]), tonumber(ARGV[2]))
local epoch, seq = halves(newest())
local mark = joined(math.max(epoch + 1, now()), seq)
redis.call('XADD', key, mark, 'begin', '1')
return mark
"""

# ARGV: the id before, then for each message its id, how many words it has, and these. 0: another id is there; -1: no
# stream.
ADD = _COMMON + """
if not exists() then return -1 end
if newest() ~= ARGV[1] then return 0 end
local at = 2
while at <= #ARGV do
  local last = at + 1 + tonumber(ARGV[at + 1])
  redis.call('XADD', key, ARGV[at], unpack(ARGV, at + 2, last))
  at = last + 1
end
return 1
"""

# The last id in use; nothing where there is no stream.
NEWEST = _COMMON + """
return exists() and newest()
"""

# ARGV: readers, lease, reader. The group, the id that was taken last, and the oldest pending one or an empty string.
OPEN_READER = _COMMON + """
local old = open(tonumber(ARGV[1]), tonumber(ARGV[2]))[ARGV[3]]
local epoch = tonumber(string.match(old.name, '%d+$'))
local name = ARGV[3] .. '.' .. string.format('%.0f', math.max(epoch + 1, now()))
local start = old.delivered
if old.oldest then
  local before = redis.call('XREVRANGE', key, '(' .. old.oldest, '-', 'COUNT', 1)
  start = before[1] and before[1][1] or '0-0'
end
redis.call('XGROUP', 'CREATE', key, name, start)
redis.call('XGROUP', 'DESTROY', key, old.name)
return {name, start, old.oldest or ''}
"""

# ARGV: group, lease, ids. Whether the group is still there.
ACKNOWLEDGE = _COMMON + """
if not exists() then return 0 end
local mine = false
local found = groups()
for _, group in ipairs(found) do mine = mine or group.name == ARGV[1] end
if not mine then return 0 end
redis.call('XACK', key, ARGV[1], unpack(ARGV, 3))
trim(groups())
keep(tonumber(ARGV[2]))
return 1
"""

# ARGV: lease. The oldest id that is not taken and how many receivers there are; nothing where there is no stream.
ROOM = _COMMON + """
if not exists() then return {} end
local found = groups()
keep(tonumber(ARGV[1]))
return {trim(found), #found}
"""

# ARGV: the last id. Removes the stream when that is its last, and all have taken everything.
REMOVE = _COMMON + """
if not exists() or redis.call('XLEN', key) > 0 then return 0 end
for _, group in ipairs(groups()) do
  if group.oldest or group.delivered ~= ARGV[1] then return 0 end
end
return redis.call('DEL', key)
"""

# ARGV: lease (0: tell nobody), the reader's number. The last receiver to leave takes the stream along; where the sender
# has not ended, it is told.
LEAVE = _COMMON + """
if not exists() then return 0 end
local left = 0
for _, group in ipairs(groups()) do
  if string.match(group.name, '^%d+') == ARGV[2] then redis.call('XGROUP', 'DESTROY', key, group.name)
  else left = left + 1 end
end
if left > 0 then trim(groups()) return 0 end
local newest = redis.call('XREVRANGE', key, '+', '-', 'COUNT', 1)[1]
local ended = false
for _, word in ipairs(newest and newest[2] or {}) do ended = ended or word == 'end' end
redis.call('DEL', key)
if not ended and tonumber(ARGV[1]) > 0 then
  redis.call('XADD', key, last_id, 'left', '1')
  keep(tonumber(ARGV[1]))
end
return 1
"""
