"""What happens when data, disks, memory and other processes do their worst."""
