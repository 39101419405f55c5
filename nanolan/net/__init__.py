"""What all HTTP calls share: a session that sends only the credentials of the call, calls with a total time limit, what a
failed call means for the user, and how far a transfer is. Contains no call of a service.
"""
