"""What is installed here, by whose leave and with which known faults: for developers, nothing else imports it."""
