"""What each command does, from a checked request to a finished run: request, plan, forecast, execute."""
