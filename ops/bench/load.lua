-- The load that wrk sends: POST of prepared bodies, each with idempotency keys that never come twice.
--
--   wrk -t1 -c32 -d<longer> -s load.lua URL -- BODIES KEY PREFIX SECONDS CONNECTIONS THINK_MS
--
-- BODIES has one body a line, with the byte 1 where a key's changing part belongs. Each connection waits before it sends,
-- for a random time of THINK_MS on average, so that they do not move in step. Sending ends after SECONDS, but every answer
-- is waited for (`delay` parks a connection instead of sending on it), so that what is acknowledged is known exactly. When
-- all are parked it says PARKED, and wants a SIGINT. The rate is taken from the first request to the last answer.

local ffi = require("ffi")
ffi.cdef [[
typedef struct { long seconds; long nanoseconds; } bench_timespec;
int clock_gettime(int clock, bench_timespec *now);
]]
local MONOTONIC = 1
local timespec = ffi.new("bench_timespec")

local function now()
   ffi.C.clock_gettime(MONOTONIC, timespec)
   return tonumber(timespec.seconds) + tonumber(timespec.nanoseconds) * 1e-9
end

local threads = {}

function setup(thread)
   table.insert(threads, thread)
end

local bodies = {}
local prefix, limit, connections, think
local number = 0

-- globals: `done` reads them from another Lua state
began, ended, parked = 0, 0, 0

function init(args)
   prefix, limit, connections, think = args[3], tonumber(args[4]), tonumber(args[5]), tonumber(args[6])
   wrk.method = "POST"
   wrk.headers["Authorization"] = "Bearer " .. args[2]
   wrk.headers["Content-Type"] = "application/json"
   for line in io.lines(args[1]) do
      local parts = {}
      for part in (line .. "\1"):gmatch("([^\1]*)\1") do
         parts[#parts + 1] = part
         parts[#parts + 1] = ""
      end
      parts[#parts] = nil
      bodies[#bodies + 1] = parts
   end
end

function delay()
   local at = now()
   if began == 0 then began = at end
   if at - began < limit then return math.floor(2 * think * math.random()) end
   parked, ended = parked + 1, at
   if parked == connections then
      io.write("PARKED\n")
      io.flush()
   end
   return 3600000
end

function request()
   number = number + 1
   local parts = bodies[number % #bodies + 1]
   local key = string.format("%s-%x", prefix, number)
   for i = 2, #parts, 2 do parts[i] = key end
   return wrk.format(nil, nil, nil, table.concat(parts))
end

function done(summary, latency, requests)
   local thread, errors = threads[1], summary.errors
   io.write(string.format(
      '\nRESULT {"requests":%d,"refused":%d,"broken":%d,"parked":%d,"seconds":%.6f,"p50_ms":%.3f,"p99_ms":%.3f,"max_ms":%.3f}\n',
      summary.requests, errors.status, errors.connect + errors.read + errors.write + errors.timeout,
      thread:get("parked"), thread:get("ended") - thread:get("began"),
      latency:percentile(50) / 1000, latency:percentile(99) / 1000, latency.max / 1000))
end
