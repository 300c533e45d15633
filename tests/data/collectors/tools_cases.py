"""A state of each of the tools' APIs, as our collector holds it."""

FILES = {"root": "home", "tree": {"a.txt": "red fox", "old": {"b c.txt": ""}}, "cwd": []}
INSIDE = FILES | {"cwd": ["old"]}
CAR = {
  "fuelLevel": 10.5, "batteryVoltage": 12.6, "engineState": "stopped", "acTemperature": 21,
  "acMode": "auto", "fanSpeed": 30, "humidityLevel": 40, "headLightStatus": "off",
  "parkingBrakeStatus": "engaged", "parkingBrakeForce": 500, "slopeAngle": 10,
  "brakePedalStatus": "pressed", "brakePedalForce": 1000, "distanceToNextVehicle": 60,
  "cruiseStatus": "inactive", "destination": "Rome",
  "doorStatus": {"driver": "locked", "passenger": "locked", "rear_left": "locked",
                 "rear_right": "unlocked"},
}  # fmt: skip
TRADING = {
  "in": True, "market": "Open", "cash": 900.5, "next": 7, "stocks": {"AB": 12.25, "CD": 3},
  "watch": ["AB"], "orders": {3: ["Buy", 2, "AB", 11, "Pending"]},
}  # fmt: skip
INK = {"id": 4, "status": "Open", "priority": 2, "title": "no ink", "description": ""}
TICKETS = {"user": "ann", "next": 5, "queue": [INK | {"created_by": "ann"}]}
MESSAGES = {
  "user": "USR001", "count": 2, "users": {"Ann": "USR001", "Bo": "USR002"},
  "inbox": [["USR002", "see you"]],
}  # fmt: skip
MATH = {"numbers": [6, 0.5, -2]}
STATES = {
  "GorillaFileSystem": FILES, "MathAPI": MATH, "MessageAPI": MESSAGES, "TicketAPI": TICKETS,
  "TradingBot": TRADING, "VehicleControlAPI": CAR,
}  # fmt: skip
